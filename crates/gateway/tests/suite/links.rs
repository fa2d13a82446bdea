//! Clients that keep their own end of a session: the gateway only passes their links through.

use std::time::Duration;

use landfast_core::record::Phase;
use landfast_core::session::WINDOW;
use landfast_core::ws::Opcode;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::head::RequestHead;
use landfast_net::link::{self, LinkError, OpenAnswer, OpenRequest, ResumeRequest};
use landfast_net::socket::Socket;
use landfast_registry::token::Scope;
use tokio::io::AsyncReadExt;

use crate::client::{bearer, connect, head};
use crate::node::{Answer as Relay, Node};
use crate::world::{World, soon, until};

struct Setting {
    world: World,
    node: Node,
    id: InstanceId,
    token: String,
}

impl Setting {
    async fn start() -> Self {
        let world = World::start().await;
        let node = Node::start(world.cell.key()).await;
        let id = world.instance_at(&node).await;
        let token = bearer(&world.token(id));
        Self { world, node, id, token }
    }

    async fn open(&self, head: RequestHead) -> Result<(Socket, OpenAnswer), LinkError> {
        let path = format!("/i/{}/links", self.id);
        let request = OpenRequest { window: WINDOW, head };
        let socket = connect(self.world.gateway).await;
        soon("an answer", link::open(socket, &path, &request, &[("Authorization", &self.token)])).await
    }

    async fn resume(&self, answer: &OpenAnswer, number: u64) -> Result<(Socket, u64), LinkError> {
        let path = format!("/i/{}/links", self.id);
        let request =
            ResumeRequest { session: answer.session, secret: answer.secret.clone(), link: number, received: 0 };
        let socket = connect(self.world.gateway).await;
        soon("an answer", link::resume(socket, &path, &request, &[("Authorization", &self.token)])).await
    }
}

fn inner(target: &str, lines: &[(&str, &str)]) -> RequestHead {
    let mut head = head("GET", target, lines);
    head.headers.push("Connection", "Upgrade");
    head.headers.push("Upgrade", "websocket");
    head
}

fn attach() -> RequestHead {
    inner("/processes/x/attach?from=now", &[])
}

async fn ends(link: &mut Socket) {
    let mut rest = Vec::new();
    // Whether it was reset or ended, it is over.
    let _ = soon("the link ends", link.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_link_is_passed_through_without_its_tokens() {
    let setting = Setting::start().await;
    let token = setting.world.token(setting.id);
    let head = inner(
        &format!("/processes/x/attach?token={token}&from=now"),
        &[
            ("Authorization", &setting.token),
            ("Sec-WebSocket-Protocol", "landfast.process.v1"),
            ("Landfast-Error", "x"),
        ],
    );
    let (_link, answer) = setting.open(head).await.unwrap();
    assert_eq!(answer.head.headers.get("sec-websocket-protocol"), Some("landfast.process.v1"));
    let far = setting.node.far_end().await;
    assert_eq!(far.head.target, "/processes/x/attach?from=now");
    assert_eq!(far.head.headers.get("upgrade"), Some("websocket"));
    for absent in ["authorization", "landfast-error"] {
        assert_eq!(far.head.headers.get(absent), None);
    }
    let outer = &setting.node.asked()[0];
    assert!(!outer.headers.contains_key("authorization") && !format!("{outer:?}").contains(&token[..40]));
}

#[tokio::test]
async fn the_request_inside_is_held_to_the_tokens_scope() {
    let mut setting = Setting::start().await;
    setting.token = bearer(&setting.world.token_of(setting.id, &[Scope::Process], 60).1);
    for target in ["/files/secret", "/processes/../files", "no-slash"] {
        let refused = setting.open(inner(target, &[])).await.unwrap_err();
        assert!(matches!(refused.code(), ErrorCode::AuthForbidden | ErrorCode::RequestInvalid), "{target}: {refused}");
    }
    assert!(setting.open(attach()).await.is_ok());
    assert_eq!(setting.node.asked().len(), 1, "only what is allowed reaches the agent");
}

#[tokio::test]
async fn a_far_ends_refusal_reaches_the_client_as_it_is() {
    let setting = Setting::start().await;
    let Err(LinkError::Refused(refusal)) = setting.open(inner("/refused", &[])).await else { panic!("not refused") };
    assert_eq!((refusal.code(), refusal.body.as_slice()), (ErrorCode::ProcessUnknown, &b"no such process"[..]));
}

#[tokio::test]
async fn a_link_ends_with_its_upstream_and_the_next_resumes() {
    let setting = Setting::start().await;
    let (mut link, answer) = setting.open(attach()).await.unwrap();
    setting.node.cut();
    ends(&mut link).await;
    let (_link, received) = setting.resume(&answer, 2).await.unwrap();
    assert_eq!(received, 0);
    let refused = setting.resume(&answer, 2).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SessionSuperseded);
}

#[tokio::test]
async fn a_resume_waits_while_the_instance_is_between_places() {
    let setting = Setting::start().await;
    let (mut link, answer) = setting.open(attach()).await.unwrap();
    setting.world.phase(setting.id, Phase::Starting).await;
    setting.node.cut();
    ends(&mut link).await;
    let (resumed, ()) = tokio::join!(setting.resume(&answer, 2), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        setting.world.phase(setting.id, Phase::Running).await;
    });
    assert!(resumed.is_ok());
}

#[tokio::test]
async fn a_newer_generation_ends_the_link_at_once() {
    let setting = Setting::start().await;
    let (mut link, answer) = setting.open(attach()).await.unwrap();
    let new = Node::start(setting.world.cell.key()).await;
    new.take_over(&setting.node);
    setting.node.answers(Relay::Silence);
    setting.world.moved(setting.id, &new).await;
    ends(&mut link).await;
    assert!(setting.resume(&answer, 2).await.is_ok());
    assert_eq!(new.dials(), [2]);
}

#[tokio::test]
async fn an_end_is_told_when_the_client_comes_back() {
    for (phase, code) in [
        (Phase::Stopped, ErrorCode::InstanceStopped),
        (Phase::Deleted, ErrorCode::InstanceGone),
        (Phase::Failed, ErrorCode::InstanceFailed),
    ] {
        let setting = Setting::start().await;
        let (mut link, answer) = setting.open(attach()).await.unwrap();
        setting.world.phase(setting.id, phase).await;
        ends(&mut link).await;
        assert_eq!(setting.resume(&answer, 2).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_revoked_token_ends_the_link_and_opens_no_other() {
    let mut setting = Setting::start().await;
    let (jti, token) = setting.world.token_of(setting.id, &[Scope::All], 60);
    setting.token = bearer(&token);
    let (mut link, answer) = setting.open(attach()).await.unwrap();
    setting.world.revoke(jti).await;
    ends(&mut link).await;
    assert_eq!(setting.resume(&answer, 2).await.unwrap_err().code(), ErrorCode::AuthRevoked);
}

#[tokio::test]
async fn a_draining_gateway_ends_links_at_once_so_that_they_come_back_elsewhere() {
    let mut setting = Setting::start().await;
    let (mut link, answer) = setting.open(attach()).await.unwrap();
    setting.world.stopped().await;
    ends(&mut link).await;
    until("the agent keeps the session", || setting.node.sessions() == 1).await;
    drop(answer);
}

#[tokio::test]
async fn a_websocket_and_a_link_are_told_apart_by_what_they_ask_for() {
    let setting = Setting::start().await;
    let target = format!("/i/{}/processes/x/attach", setting.id);
    let mut ws =
        crate::client::websocket(setting.world.gateway, &target, &[("Authorization", &setting.token)]).await.unwrap();
    ws.send(Opcode::Text, b"x").await;
    setting.open(attach()).await.unwrap();
    assert_eq!(setting.node.sessions(), 2);
}
