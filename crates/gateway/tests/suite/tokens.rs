//! Access tokens: where they may stand, what they open, and that they go no further.

use landfast_core::ErrorCode;
use landfast_registry::token::Scope;

use crate::client::{Answer, bearer, head, send, websocket};
use crate::node::Node;
use crate::world::{World, soon};

async fn one() -> (World, Node, landfast_core::InstanceId) {
    let world = World::start().await;
    let node = Node::start(world.cell.key()).await;
    let id = world.instance_at(&node).await;
    (world, node, id)
}

async fn get(world: &World, target: &str, lines: &[(&str, &str)]) -> Answer {
    send(world.gateway, head("GET", target, lines), b"").await
}

#[tokio::test]
async fn a_token_opens_from_each_of_its_places_and_is_seen_by_nobody_behind_the_gateway() {
    let (world, node, id) = one().await;
    let token = world.token(id);
    let carriers = [
        (format!("/i/{id}/80/p?a=1&b=2"), vec![("Authorization", bearer(&token)), ("Cookie", "a=b".into())]),
        (format!("/i/{id}/80/p?a=1&token={token}&b=2"), vec![("Cookie", "a=b".into())]),
        (format!("/i/{id}/80/p?jwt={token}&a=1&b=2"), vec![("Cookie", "a=b".into())]),
        (format!("/i/{id}/80/p?a=1&b=2"), vec![("Cookie", format!("a=b; landfast_token={token}"))]),
        (
            format!("/i/{id}/80/p?a=1&b=2"),
            vec![("Sec-WebSocket-Protocol", format!("landfast.token.{token}")), ("Cookie", "a=b".into())],
        ),
    ];
    for (target, lines) in &carriers {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(get(&world, target, &lines).await.cause(), (200, None), "{lines:?}");
    }
    for seen in node.seen() {
        assert_eq!(seen.target, "/p?a=1&b=2");
        assert_eq!(seen.headers["cookie"], "a=b");
        assert!(!format!("{seen:?}").contains(&token[..40]), "{seen:?}");
    }
}

#[tokio::test]
async fn the_subprotocol_with_the_token_is_offered_to_nobody() {
    let (world, node, id) = one().await;
    let offered = format!("landfast.token.{}, landfast.process.v1, other", world.token(id));
    let ws =
        websocket(world.gateway, &format!("/i/{id}/processes/x/attach"), &[("Sec-WebSocket-Protocol", &offered)]).await;
    let far = node.far_end().await;
    assert_eq!(far.head.headers.get("sec-websocket-protocol"), Some("landfast.process.v1, other"));
    assert_eq!(ws.unwrap().head.headers.get("sec-websocket-protocol"), Some("landfast.process.v1"));
}

#[tokio::test]
async fn a_token_that_opens_nothing_is_refused_by_what_is_wrong_with_it() {
    let (world, node, id) = one().await;
    let other = world.instance_at(&node).await;
    let (revoked, revoked_token) = world.token_of(id, &[Scope::All], 60);
    world.revoke(revoked).await;
    let api_key = world.cell.api_key().to_text();
    for (token, status, code) in [
        (None, 401, ErrorCode::AuthMissing),
        (Some("nonsense".into()), 401, ErrorCode::AuthInvalid),
        (Some(api_key), 401, ErrorCode::AuthInvalid),
        (Some(world.token_of(id, &[Scope::All], -1).1), 401, ErrorCode::AuthExpired),
        (Some(world.token(other)), 403, ErrorCode::AuthForbidden),
    ] {
        let token = token.map(|token| bearer(&token));
        let lines: Vec<_> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
        let answer = get(&world, &format!("/i/{id}/80"), &lines).await;
        assert_eq!(answer.cause(), (status, Some(code)), "{token:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    let token = bearer(&revoked_token);
    soon("the revocation arrives", async {
        loop {
            match get(&world, &format!("/i/{id}/80"), &[("Authorization", &token)]).await.cause() {
                (200, None) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                refused => return assert_eq!(refused, (403, Some(ErrorCode::AuthRevoked))),
            }
        }
    })
    .await;
    assert!(node.seen().iter().all(|seen| seen.method == "GET"));
}

#[tokio::test]
async fn a_scope_opens_its_paths_and_no_others() {
    let (world, _node, id) = one().await;
    let token = bearer(&world.token_of(id, &[Scope::Process], 60).1);
    for (path, status) in [
        ("/processes", 200),
        ("/processes/x/attach", 200),
        ("/exec", 200),
        ("/80/", 403),
        ("/files", 403),
        ("/execute", 403),
    ] {
        let answer = get(&world, &format!("/i/{id}{path}"), &[("Authorization", &token)]).await;
        assert_eq!(answer.head.status, status, "{path}");
    }
    let nothing = bearer(&world.token_of(id, &[], 60).1);
    let answer = get(&world, &format!("/i/{id}/processes"), &[("Authorization", &nothing)]).await;
    assert_eq!(answer.cause(), (403, Some(ErrorCode::AuthForbidden)));
}

#[tokio::test]
async fn a_programs_own_token_passes_beside_ours() {
    let (world, node, id) = one().await;
    let target = format!("/i/{id}/80/p?token=theirs&jwt={}", world.token(id));
    assert_eq!(get(&world, &target, &[("Authorization", "Bearer theirs")]).await.cause(), (200, None));
    let seen = &node.seen()[0];
    assert_eq!(
        (seen.target.as_str(), &seen.headers["authorization"]),
        ("/p?token=theirs", &"Bearer theirs".parse().unwrap())
    );
}

#[tokio::test]
async fn nobody_makes_the_gateway_check_tokens_without_end() {
    let (world, _node, id) = one().await;
    let target = format!("/i/{id}/80?{}", ["token=x"; 9].join("&"));
    assert_eq!(get(&world, &target, &[]).await.cause(), (400, Some(ErrorCode::RequestInvalid)));
}
