//! Pages of other origins: what a browser is told, over real sockets.

use landfast_core::{ErrorCode, InstanceId};

use crate::client::{Answer, bearer, head, send, websocket};
use crate::node::Node;
use crate::world::World;

const APP: &str = "https://app.example";

async fn with(origins: &[&str]) -> (World, Node, InstanceId) {
    let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
    let world = World::with(|config| config.cors_origins = origins).await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    (world, node, id)
}

/// What a browser asks before a page's `PUT` with a token.
async fn preflight(world: &World, target: &str, origin: &str) -> Answer {
    let lines = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "authorization,if-range"),
    ];
    send(world.gateway, head("OPTIONS", target, &lines), b"").await
}

async fn get(world: &World, id: InstanceId, origin: &str, path: &str) -> Answer {
    let token = bearer(&world.token(id));
    let lines = [("Origin", origin), ("Authorization", &*token)];
    send(world.gateway, head("GET", &format!("/i/{id}{path}"), &lines), b"").await
}

fn granted(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[tokio::test]
async fn without_a_word_of_the_operators_no_page_may_ask() {
    let (world, node, id) = with(&[]).await;
    let asked = preflight(&world, &format!("/i/{id}/80/"), APP).await;
    assert_eq!((asked.cause(), granted(&asked)), ((401, Some(ErrorCode::AuthMissing)), None));
    let token = world.token(id);
    let passed = preflight(&world, &format!("/i/{id}/80/?token={token}"), APP).await;
    assert_eq!((passed.head.status, granted(&passed)), (200, None));
    assert_eq!(node.seen().last().unwrap().method, "OPTIONS", "its program may answer as it likes");
    let answer = get(&world, id, APP, "/80/").await;
    assert!(!answer.head.headers.iter().any(|(name, _)| name.starts_with("access-control") || name == "vary"));
}

#[tokio::test]
async fn a_preflight_of_a_listed_origin_is_answered_before_anybody_hears_of_it() {
    let (world, node, id) = with(&["https://other.example", APP]).await;
    for target in [format!("/i/{id}/files/content?path=a"), format!("/i/{id}/80/"), "/v1/instances".to_owned()] {
        let answer = preflight(&world, &target, APP).await;
        assert_eq!((answer.head.status, granted(&answer)), (204, Some(APP)), "{target}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,if-range"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!((answer.header("access-control-max-age"), answer.header("content-length")), (Some("600"), None));
        assert!(answer.header("landfast-request-id").is_some());
    }
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn a_page_reads_what_clients_of_ours_read_in_answers_and_in_refusals() {
    let (world, _node, id) = with(&[APP]).await;
    for (path, status) in [("/80/", 200), ("/nowhere/", 404)] {
        let answer = get(&world, id, APP, path).await;
        assert_eq!((answer.head.status, granted(&answer)), (status, Some(APP)), "{path}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["landfast-error", "landfast-request-id", "landfast-offset", "retry-after-ms", "etag"] {
            assert!(exposed.split(", ").any(|found| found == name), "{name} of {exposed}");
        }
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    let refused = send(world.gateway, head("GET", &format!("/i/{id}/80/"), &[("Origin", APP)]), b"").await;
    assert_eq!((refused.cause(), granted(&refused)), ((401, Some(ErrorCode::AuthMissing)), Some(APP)));
}

#[tokio::test]
async fn an_origin_that_is_not_listed_is_granted_nothing_and_no_cache_takes_one_for_the_other() {
    let (world, _node, id) = with(&[APP]).await;
    for origin in ["https://app.example.evil.test", "http://app.example", "https://app.example:8443", "null"] {
        assert_eq!(preflight(&world, &format!("/i/{id}/80/"), origin).await.cause().0, 401, "{origin}");
        let answer = get(&world, id, origin, "/80/").await;
        assert_eq!((granted(&answer), answer.header("vary")), (None, Some("origin")), "{origin}");
    }
}

#[tokio::test]
async fn all_origins_are_granted_no_credentials() {
    let (world, _node, id) = with(&["*"]).await;
    for origin in [APP, "null"] {
        let asked = preflight(&world, &format!("/i/{id}/80/"), origin).await;
        let answer = get(&world, id, origin, "/80/").await;
        assert_eq!((asked.head.status, answer.head.status), (204, 200));
        for answer in [asked, answer] {
            assert_eq!((granted(&answer), answer.header("access-control-allow-credentials")), (Some("*"), None));
        }
    }
}

#[tokio::test]
async fn a_request_that_is_no_preflight_reaches_the_program() {
    let (world, node, id) = with(&[APP]).await;
    let token = bearer(&world.token(id));
    let lines = [("Origin", APP), ("Authorization", &*token)];
    assert_eq!(send(world.gateway, head("OPTIONS", &format!("/i/{id}/80/"), &lines), b"").await.head.status, 200);
    assert_eq!(node.seen().last().unwrap().method, "OPTIONS");
    let ws = websocket(world.gateway, &format!("/i/{id}/processes/x/attach"), &lines).await.unwrap();
    assert_eq!(ws.head.status, 101);
}
