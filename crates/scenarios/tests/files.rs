//! Files of an instance, by the data plane and by the control plane, over a network that fails.

use std::path::Path;

use landfast_client::{Files, Source, WriteFile};
use landfast_core::ErrorCode;
use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::fault_relay::Direction;
use landfast_scenarios::http::{self, Answer};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::user::User;
use serde_json::json;

/// After how many bytes of a file that is on its way its links are cut: each file is, some times.
const CUT_EVERY: usize = 16 << 20;

/// Who is asked, and with what.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The instance, with its token.
    Data,
    /// The control plane, with an API key.
    Control,
}

async fn ask(instance: &Instance, way: Way, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
    let operator = &instance.operator;
    let (path, token) = match way {
        Way::Data => (format!("/i/{}/files/{target}", instance.id), &instance.token),
        Way::Control => (format!("/v1/instances/{}/files/{target}", instance.id), &operator.key),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        operator.address,
        body.len()
    );
    http::send(operator.address, &[head.as_bytes(), body].concat()).await
}

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

#[tokio::test]
async fn files_are_reached_by_the_data_plane_and_by_the_control_plane_alike() {
    let cell = Cell::start().await;
    let instance = cell.create().await;
    let large = pattern(20 << 20);
    for (way, name) in [(Way::Data, "one"), (Way::Control, "two")] {
        let target = format!("content?path={name}");
        let written = ask(&instance, way, "PUT", &target, "If-None-Match: *\r\n", &large).await;
        assert_eq!(written.status, 201, "{way:?}");
        let again = ask(&instance, way, "PUT", &target, "If-None-Match: *\r\n", b"x").await;
        assert_eq!(again.refusal(), (409, "file.exists".to_owned()), "{way:?}");
        let read = ask(&instance, way, "GET", &target, "", b"").await;
        assert!(read.status == 200 && read.body == large, "{way:?}");
        let part = ask(&instance, way, "GET", &target, "Range: bytes=1000-1999\r\n", b"").await;
        assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000-1999/20971520")), "{way:?}");
        assert_eq!(part.body, large[1000..2000], "{way:?}");
        let outside = ask(&instance, way, "GET", &target, "Range: bytes=20971520-\r\n", b"").await;
        assert_eq!(outside.refusal(), (416, "file.range".to_owned()), "{way:?}");
        let tree = ask(&instance, way, "GET", &format!("tree?path={name}"), "", b"").await;
        let unpacked = ask(&instance, way, "PUT", &format!("tree?path=in-{name}&parents=true"), "", &tree.body).await;
        assert_eq!((unpacked.status, &unpacked.json()["bytes"]), (200, &json!(20 << 20)), "{way:?}");
        let looked = ask(&instance, way, "GET", &format!("stat?path=in-{name}/{name}&follow=true"), "", b"").await;
        assert_eq!(looked.json()["size"], 20 << 20, "{way:?}");
        assert_eq!(ask(&instance, way, "DELETE", &format!("tree?path=in-{name}"), "", b"").await.status, 204);
        // Refused at once, and all of it is sent.
        let garbage = ask(&instance, way, "PUT", "tree?path=.", "", &large).await;
        assert_eq!(garbage.refusal(), (422, "file.archive".to_owned()), "{way:?}");
    }
}

#[tokio::test]
async fn a_file_on_its_way_outlives_links_and_a_restart_of_the_node() {
    let mut cell = Cell::start().await;
    let instance = cell.create().await;
    let large = pattern(100 << 20);
    for round in 0..2 {
        let moved = async {
            let written = ask(&instance, Way::Data, "PUT", "content?path=large", "", &large).await;
            assert!(matches!(written.status, 200 | 201), "{written:?}");
            let read = ask(&instance, Way::Data, "GET", "content?path=large", "", b"").await;
            assert!(read.status == 200 && read.body == large, "round {round}");
        };
        let mut moved = std::pin::pin!(moved);
        let mut cuts = 0;
        loop {
            let network = &cell.nodes[0].network;
            let links = network.accepted();
            [Direction::Up, Direction::Down].into_iter().for_each(|way| network.cut_after(way, CUT_EVERY));
            tokio::select! {
                () = &mut moved => break,
                () = eventually("a further link", async || (network.accepted() > links).then_some(())) => {}
            }
            cuts += 1;
            if cuts == 3 {
                cell.nodes[0].restart().await;
            }
        }
        cell.nodes[0].network.lets_all_pass();
        assert!(cuts > 0, "it was over before anything was cut");
    }
}

/// A client through the relay, and files of an instance, of which one is `large` and was written long enough ago.
async fn with_large(cell: &Cell, content: &[u8]) -> (User, Instance, Files) {
    let user = User::of(&cell.operator, &[cell.operator.address]);
    let instance = cell.create().await;
    let files = user.client().files(instance.id.parse().unwrap());
    write(&instance, &files, content).await;
    (user, instance, files)
}

/// Writes the file, and waits until the clock of changes has moved on: from then on its etag is this version's alone.
async fn write(instance: &Instance, files: &Files, content: &[u8]) {
    files.write(Path::new("large"), &WriteFile::default(), Source::bytes(content.to_vec())).await.unwrap();
    eventually("a strong etag", async || {
        let read = ask(instance, Way::Data, "GET", "content?path=large", "Range: bytes=0-0\r\n", b"").await;
        read.header("etag").is_some_and(|etag| !etag.starts_with("W/")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_cut_on_its_way_to_a_client_goes_on_at_the_very_byte() {
    let cell = Cell::start().await;
    let content = pattern(3 << 20);
    let (user, instance, files) = with_large(&cell, &content).await;
    // In the head, at its end, in the first piece, and at the very last byte.
    for cut in [1, 300, 700, 1_001, 70_001, 2 << 20, content.len() - 1, content.len() + 200] {
        cell.downstream.cut_after(Direction::Down, cut);
        let read = files.read(Path::new("large"), 0, None).await.unwrap().bytes(content.len()).await;
        assert!(read.unwrap() == content, "cut after {cut}");
        cell.downstream.lets_all_pass();
    }
    let part = files.read(Path::new("large"), 1_000, Some(2_000_000)).await.unwrap();
    cell.downstream.cut();
    assert!(part.bytes(content.len()).await.unwrap() == content[1_000..2_000_000]);
    let here = tempfile::tempdir().unwrap();
    let target = here.path().join("back");
    cell.downstream.cut_after(Direction::Down, 1 << 20);
    let cp = ["cp", "-o", "json", &format!("{}:large", instance.id), target.to_str().unwrap()];
    let done = user.command(&cp).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(!cell.downstream.lets_all_pass(), "it was over before anything was cut");
    assert!(std::fs::read(&target).unwrap() == content);
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["bytes"], content.len(), "nothing is counted twice");
}

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_cut_is_begun_anew_or_refused_and_never_mixed() {
    let cell = Cell::start().await;
    let (one, two) = (pattern(8 << 20), vec![7; 1 << 20]);
    let (_, instance, files) = with_large(&cell, &one).await;
    let here = tempfile::tempdir().unwrap();
    let target = here.path().join("back");
    let [mut whole, mut in_pieces] =
        [files.read(Path::new("large"), 0, None).await, files.read(Path::new("large"), 0, None).await]
            .map(Result::unwrap);
    for incoming in [&mut whole, &mut in_pieces] {
        assert!(incoming.next().await.unwrap().is_some_and(|piece| one.starts_with(&piece)));
    }
    cell.downstream.cut();
    write(&instance, &files, &two).await;
    whole.save(&target, None).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == two);
    let failure = in_pieces.write_to(&mut Vec::new()).await.unwrap_err();
    assert_eq!(failure.code(), Some(ErrorCode::FileChanged), "{failure}");
}

#[tokio::test]
async fn a_token_reaches_files_if_it_says_so() {
    let cell = Cell::start().await;
    let mut instance = cell.create().await;
    for (scope, status) in [("files", 200), ("process", 403), ("telemetry", 403)] {
        let wish = json!({"scopes": [scope]});
        instance.token = instance.operator.token(&instance.id, &wish).await.text;
        let answer = ask(&instance, Way::Data, "GET", "list?path=.", "", b"").await;
        assert_eq!(answer.status, status, "{scope}");
    }
    let processes = instance.ask("GET", "/processes", None).await;
    assert_eq!(processes.status, 403);
}
