//! The instance's files, read, written, listed, moved, removed, carried as trees and watched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{Agent, Answer, PATIENCE, eventually};

impl Agent {
    async fn file(&self, method: &str, verb: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let path = format!("/files/{verb}?{query}");
        self.ask_door("agent.sock", method, &path, headers, Bytes::copy_from_slice(body)).await
    }

    /// Sends a body in chunks, the last of which is followed by an error if it is cut.
    async fn send_chunks(&self, path: &str, chunks: Vec<Bytes>, is_cut: bool) -> Option<u16> {
        let socket = self.connect("agent.sock").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        let mut frames: Vec<std::io::Result<Frame<Bytes>>> = chunks.into_iter().map(|c| Ok(Frame::data(c))).collect();
        if is_cut {
            frames.push(Err(std::io::Error::other("cut")));
        }
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = http::Request::put(path).header("host", "agent").body(body).unwrap();
        let task = tokio::spawn(connection);
        let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap();
        let status = answer.ok().map(|answer| answer.status().as_u16());
        task.abort();
        status
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.home().join(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What a watch says, as it comes.
struct Watched {
    body: hyper::body::Incoming,
    text: String,
}

impl Watched {
    async fn open(agent: &Agent, query: &str) -> Self {
        let socket = agent.connect("agent.sock").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("/files/watch?{query}")).header("host", "agent");
        let answer = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { body: answer.into_body(), text: String::new() }
    }

    /// The next change, or nothing at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (data, rest) =
                    (frame.strip_prefix("data: ").map(|d| serde_json::from_str(d).unwrap()), rest.to_owned());
                self.text = rest;
                match data {
                    Some(change) => return Some(change),
                    None => continue,
                }
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something is said")?;
            self.text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    /// The next change that is of this type, as its path's last part.
    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let change = self.next().await.expect("it goes on");
            if change["type"] == kind {
                return change;
            }
        }
    }
}

/// The etag of a file that nobody writes to, once the clock of changes has moved on.
async fn strong_etag(agent: &Agent, path: &str) -> String {
    loop {
        let head = agent.file("HEAD", "content", &format!("path={path}"), &[], b"").await;
        let etag = head.header("etag");
        match etag.strip_prefix("W/") {
            None => return etag.to_owned(),
            Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn name(change: &Value) -> &str {
    change["path"].as_str().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test]
async fn a_file_is_written_read_looked_at_and_removed() {
    let agent = Agent::start().await;
    let written = agent.file("PUT", "content", "path=a/b.txt&parents=true&mode=640", &[], b"hello").await;
    assert_eq!(written.status, 201, "{written:?}");
    let info = written.json();
    let path = agent.home().join("a/b.txt");
    assert_eq!((info["path"].as_str(), info["size"].as_u64()), (path.to_str(), Some(5)));
    assert_eq!((info["mode"].as_str(), info["kind"].as_str()), (Some("0640"), Some("file")));
    assert_eq!(agent.file("PUT", "content", "path=a/b.txt", &[], b"hello again").await.status, 200);
    let strong = strong_etag(&agent, "a/b.txt").await;
    let read = agent.file("GET", "content", &format!("path={}", path.display()), &[], b"").await;
    assert_eq!((read.status, &read.body[..], read.header("etag")), (200, &b"hello again"[..], &*strong));
    assert_eq!((read.header("content-length"), read.header("accept-ranges")), ("11", "bytes"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let head = agent.file("HEAD", "content", "path=a/b.txt", &[], b"").await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, "11"));
    let stat = agent.file("GET", "stat", "path=a/b.txt", &[], b"").await;
    assert_eq!(stat.json()["etag"], *strong);
    assert_eq!(agent.file("DELETE", "content", "path=a/b.txt", &[], b"").await.status, 204);
    let gone = agent.file("DELETE", "content", "path=a/b.txt", &[], b"").await;
    assert_eq!(gone.refusal(), (404, "file.not_found".to_owned()));
}

#[tokio::test]
async fn parts_of_a_file_are_read_as_the_standard_says() {
    let agent = Agent::start().await;
    fs::write(agent.home().join("f"), "0123456789").unwrap();
    for (range, status, body, of) in [
        ("bytes=0-3", 206, "0123", "bytes 0-3/10"),
        ("bytes=8-", 206, "89", "bytes 8-9/10"),
        ("bytes=-1", 206, "9", "bytes 9-9/10"),
        ("bytes=4-400", 206, "456789", "bytes 4-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=3-1", 200, "0123456789", ""),
        ("bytes=1-2,4-5", 200, "0123456789", ""),
        ("nonsense", 200, "0123456789", ""),
    ] {
        let answer = agent.file("GET", "content", "path=f", &[("range", range)], b"").await;
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.header("content-range"), of, "{range}");
        match status {
            416 => assert_eq!(answer.refusal().1, "file.range"),
            _ => assert_eq!(answer.body, body, "{range}"),
        }
    }
    let etag = strong_etag(&agent, "f").await;
    let same = agent.file("GET", "content", "path=f", &[("if-none-match", &etag)], b"").await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let part = [("range", "bytes=0-0"), ("if-range", &*etag)];
    assert_eq!(agent.file("GET", "content", "path=f", &part, b"").await.status, 206);
    fs::write(agent.home().join("f"), "another").unwrap();
    assert_eq!(agent.file("GET", "content", "path=f", &part, b"").await.body, "another", "what changed is read whole");
}

#[tokio::test]
async fn an_etag_that_two_versions_may_have_is_weak_and_continues_nothing() {
    let agent = Agent::start().await;
    // What the kernel makes up is never twice the same, and has no time.
    let made_up = agent.file("GET", "content", "path=/proc/uptime", &[], b"").await;
    let etag = made_up.header("etag").to_owned();
    assert!(etag.starts_with("W/\""), "{etag}");
    for (name, value) in [("if-range", &*etag), ("if-none-match", &*etag)] {
        let headers = [("range", "bytes=0-0"), (name, value)];
        let again = agent.file("GET", "content", "path=/proc/uptime", &headers, b"").await;
        assert_eq!(again.status, 200, "{name}");
    }
}

#[tokio::test]
async fn a_writer_may_demand_what_was_there() {
    let agent = Agent::start().await;
    let write = async |headers: &[(&str, &str)], body: &str| {
        agent.file("PUT", "content", "path=f", headers, body.as_bytes()).await
    };
    let first = write(&[("if-none-match", "*")], "one").await;
    assert_eq!(first.status, 201);
    let etag = first.json()["etag"].as_str().unwrap().to_owned();
    assert_eq!(write(&[("if-none-match", "*")], "two").await.refusal(), (409, "file.exists".to_owned()));
    assert_eq!(write(&[("if-match", &etag)], "two").await.status, 200);
    assert_eq!(write(&[("if-match", &etag)], "three").await.refusal(), (412, "file.changed".to_owned()));
    assert_eq!((fs::read(agent.home().join("f")).unwrap(), agent.names("")), (b"two".to_vec(), vec!["f".to_owned()]));
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_nobody_waits_for_a_pipe() {
    let agent = Agent::start().await;
    let home = agent.home();
    assert!(Command::new("mkfifo").arg(home.join("pipe")).status().unwrap().success());
    fs::create_dir_all(home.join("full/of")).unwrap();
    fs::write(home.join("file"), "").unwrap();
    symlink("nowhere", home.join("dangling")).unwrap();
    for (method, verb, query, status, code) in [
        ("GET", "content", "path=pipe", 409, "file.not_a_file"),
        ("PUT", "content", "path=pipe", 409, "file.not_a_file"),
        ("GET", "content", "path=full", 409, "file.not_a_file"),
        ("PUT", "content", "path=full", 409, "file.not_a_file"),
        ("DELETE", "content", "path=full", 409, "file.not_a_file"),
        ("GET", "content", "path=/dev/zero", 409, "file.not_a_file"),
        ("GET", "tree", "path=pipe", 409, "file.not_a_file"),
        ("GET", "content", "path=none", 404, "file.not_found"),
        ("PUT", "content", "path=none/f", 404, "file.not_found"),
        ("PUT", "content", "path=dangling", 404, "file.not_found"),
        ("PUT", "content", "path=file/f", 409, "file.not_a_directory"),
        ("GET", "list", "path=file", 409, "file.not_a_directory"),
        ("PUT", "directory", "path=file", 409, "file.exists"),
        ("PUT", "directory", "path=no/such", 404, "file.not_found"),
        ("DELETE", "directory", "path=full", 409, "file.not_empty"),
        ("DELETE", "tree", "path=/", 403, "file.denied"),
        ("GET", "stat", "path=", 400, "request.invalid"),
        ("GET", "stat", "path=a%00b", 400, "request.invalid"),
        ("GET", "stat", "", 400, "request.invalid"),
        ("GET", "list", "path=.&limit=0", 400, "request.invalid"),
        ("GET", "list", "path=.&cursor=%21", 400, "request.invalid"),
        ("PUT", "mode", "path=file&mode=8", 400, "request.invalid"),
        ("PUT", "mode", "path=file", 400, "request.invalid"),
        ("GET", "watch", "path=none", 404, "file.not_found"),
        ("GET", "nothing", "path=file", 404, "request.not_found"),
        ("POST", "content", "path=file", 405, "request.method"),
    ] {
        let answer = agent.file(method, verb, query, &[], b"").await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{method} {verb} {query}");
    }
    assert_eq!(agent.file("GET", "stat", "path=dangling&follow=false", &[], b"").await.json()["target"], "nowhere");
}

#[tokio::test]
async fn directories_are_made_listed_in_pages_and_removed() {
    let agent = Agent::start().await;
    assert_eq!(agent.file("PUT", "directory", "path=d/e&parents=true&mode=700", &[], b"").await.status, 201);
    assert_eq!(agent.file("PUT", "directory", "path=d/e", &[], b"").await.status, 200);
    for n in 0..25 {
        fs::write(agent.home().join(format!("d/e/{n:02}")), "x").unwrap();
    }
    symlink("/etc", agent.home().join("d/e/link")).unwrap();
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = agent.file("GET", "list", &format!("path=d/e&limit=10{cursor}"), &[], b"").await.json();
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, agent.names("d/e"));
    assert_eq!(agent.file("DELETE", "tree", "path=d", &[], b"").await.status, 204);
    assert!(agent.names("").is_empty() && fs::metadata("/etc/passwd").is_ok());
}

#[tokio::test]
async fn a_move_overwrites_only_what_it_may() {
    let agent = Agent::start().await;
    fs::write(agent.home().join("a"), "a").unwrap();
    fs::write(agent.home().join("b"), "b").unwrap();
    let to_b = agent.file("POST", "move", "path=a&to=b", &[], b"").await;
    assert_eq!(to_b.refusal(), (409, "file.exists".to_owned()));
    let moved = agent.file("POST", "move", "path=a&to=b&overwrite=true", &[], b"").await;
    assert_eq!((moved.status, agent.names("")), (200, vec!["b".to_owned()]));
    assert_eq!(fs::read(agent.home().join("b")).unwrap(), b"a");
    assert_eq!(agent.file("PUT", "mode", "path=b&mode=4755", &[], b"").await.json()["mode"], "4755");
}

#[tokio::test]
async fn names_that_are_no_text_are_within_reach() {
    let agent = Agent::start().await;
    assert_eq!(agent.file("PUT", "content", "path=%FF%2B+%26", &[], b"odd").await.status, 201);
    let listed = agent.file("GET", "list", "path=.", &[], b"").await.json();
    let encoded = listed["items"][0]["path_encoded"].as_str().unwrap().to_owned();
    assert!(encoded.ends_with("/%FF%2B%20%26"), "{encoded}");
    assert_eq!(agent.file("GET", "content", &format!("path={encoded}"), &[], b"").await.body, "odd");
}

#[tokio::test]
async fn an_upload_that_is_cut_leaves_the_old_file() {
    let agent = Agent::start().await;
    fs::write(agent.home().join("f"), "old").unwrap();
    let chunk = Bytes::from(vec![7; 300_000]);
    agent.send_chunks("/files/content?path=f", vec![chunk.clone(); 4], true).await;
    eventually("nothing else is left", async || (agent.names("") == ["f"]).then_some(())).await;
    assert_eq!(fs::read(agent.home().join("f")).unwrap(), b"old");
    assert_eq!(agent.send_chunks("/files/content?path=f", vec![chunk; 4], false).await, Some(200));
    assert_eq!((fs::read(agent.home().join("f")).unwrap(), agent.names("").len()), (vec![7; 1_200_000], 1));
}

#[tokio::test]
async fn a_tree_goes_out_and_comes_in() {
    let agent = Agent::start().await;
    let home = agent.home();
    fs::create_dir_all(home.join("from/sub/empty")).unwrap();
    fs::write(home.join("from/sub/script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(home.join("from/sub/script"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/script", home.join("from/link")).unwrap();
    let tree = agent.file("GET", "tree", "path=from", &[], b"").await;
    assert_eq!((tree.status, tree.header("content-type")), (200, "application/x-tar"));
    let done = agent.file("PUT", "tree", "path=to/here&parents=true", &[], &tree.body).await;
    assert_eq!(done.json().to_string(), r#"{"bytes":10,"directories":2,"files":1,"links":1}"#);
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"]).args([home.join("from"), home.join("to/here")]);
    assert!(diff.status().unwrap().success());
    assert_eq!(fs::metadata(home.join("to/here/sub/script")).unwrap().permissions().mode() & 0o777, 0o755);
    let missing = agent.file("PUT", "tree", "path=nowhere", &[], &tree.body).await;
    assert_eq!(missing.refusal(), (404, "file.not_found".to_owned()));
    let garbage = agent.file("PUT", "tree", "path=to", &[], &[b'x'; 2048]).await;
    assert_eq!(garbage.refusal(), (422, "file.archive".to_owned()));
}

#[tokio::test]
async fn a_tree_that_would_lead_out_is_refused_with_the_entrys_name() {
    let agent = Agent::start().await;
    let source = tempfile::tempdir().unwrap();
    symlink("/etc", source.path().join("way-out")).unwrap();
    let packed = Command::new("tar").args(["-c", "-C"]).arg(source.path()).arg(".").output().unwrap().stdout;
    fs::create_dir(agent.home().join("to")).unwrap();
    let refused = agent.file("PUT", "tree", "path=to", &[], &packed).await;
    assert_eq!(refused.refusal(), (422, "file.escape".to_owned()));
    assert!(refused.json()["detail"].as_str().unwrap().contains("way-out"));
    assert!(agent.names("to").is_empty());
    assert_eq!(agent.file("PUT", "tree", "path=to&links=any", &[], &packed).await.status, 200);
    assert_eq!(fs::read_link(agent.home().join("to/way-out")).unwrap().to_str(), Some("/etc"));
}

#[tokio::test]
async fn a_watch_tells_what_happens_in_order() {
    let agent = Agent::start().await;
    let mut watch = Watched::open(&agent, "path=.").await;
    agent.file("PUT", "content", "path=whole", &[], b"at once").await;
    let change = watch.next().await.unwrap();
    assert_eq!((change["type"].as_str(), name(&change)), (Some("written"), "whole"), "not how it was written");
    fs::create_dir(agent.home().join("next")).unwrap();
    assert_eq!(name(&watch.next().await.unwrap()), "next", "and once");
    fs::write(agent.home().join("f"), "x").unwrap();
    assert_eq!(name(&watch.until("created").await), "f");
    assert_eq!(name(&watch.until("modified").await), "f");
    assert_eq!(name(&watch.until("written").await), "f");
    fs::rename(agent.home().join("f"), agent.home().join("g")).unwrap();
    let moved = watch.until("moved").await;
    assert_eq!((name(&moved), moved["from"].as_str().unwrap().ends_with("/f")), ("g", true));
    fs::set_permissions(agent.home().join("g"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(name(&watch.until("attributes").await), "g");
    let elsewhere = tempfile::tempdir_in(agent.home().parent().unwrap()).unwrap();
    fs::rename(agent.home().join("g"), elsewhere.path().join("g")).unwrap();
    assert_eq!(name(&watch.until("removed").await), "g");
    fs::rename(elsewhere.path().join("g"), agent.home().join("h")).unwrap();
    assert_eq!(name(&watch.until("created").await), "h");
}

#[tokio::test]
async fn a_tree_that_grows_is_watched_where_it_grows() {
    let agent = Agent::start().await;
    fs::create_dir_all(agent.home().join("top/old")).unwrap();
    let mut watch = Watched::open(&agent, "path=top&recursive=true").await;
    fs::create_dir_all(agent.home().join("top/new/deep")).unwrap();
    assert_eq!(name(&watch.until("created").await), "new");
    // Once it is told, it is watched.
    while name(&watch.until("created").await) != "deep" {}
    fs::write(agent.home().join("top/new/deep/f"), "x").unwrap();
    assert_eq!(name(&watch.until("written").await), "f");
    fs::rename(agent.home().join("top/new"), agent.home().join("top/old/moved")).unwrap();
    watch.until("moved").await;
    fs::write(agent.home().join("top/old/moved/deep/g"), "x").unwrap();
    let change = watch.until("created").await;
    assert!(change["path"].as_str().unwrap().ends_with("top/old/moved/deep/g"), "{change}");
    fs::remove_dir_all(agent.home().join("top")).unwrap();
    while watch.next().await.is_some() {}
}

#[tokio::test]
async fn one_file_is_watched_through_its_replacements() {
    let agent = Agent::start().await;
    fs::write(agent.home().join("f"), "one").unwrap();
    let mut watch = Watched::open(&agent, "path=f").await;
    for _ in 0..2 {
        fs::write(agent.home().join("other"), "two").unwrap();
        agent.file("PUT", "content", "path=f", &[], b"three").await;
        let change = watch.next().await.unwrap();
        assert_eq!((change["type"].as_str(), name(&change)), (Some("written"), "f"));
    }
    fs::remove_file(agent.home().join("f")).unwrap();
    assert_eq!(name(&watch.until("removed").await), "f");
}

#[tokio::test]
async fn a_watch_ends_with_its_watcher_and_there_are_only_so_many() {
    let agent = Agent::start().await;
    let before = agent.tasks();
    let mut watches = Vec::new();
    for _ in 0..32 {
        watches.push(Watched::open(&agent, "path=.").await);
    }
    assert_eq!(agent.file("GET", "watch", "path=.", &[], b"").await.refusal(), (429, "limit.watches".to_owned()));
    watches.clear();
    eventually("they end", async || (agent.tasks() <= before).then_some(())).await;
    let _again = Watched::open(&agent, "path=.").await;
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_is_told_of_the_gap() {
    let agent = Agent::start().await;
    let mut watch = Watched::open(&agent, "path=.").await;
    // More than the kernel's queue and every buffer between hold.
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for n in 0..most * 2 + 40_000 {
        let name = agent.home().join(format!("{}-{n}", "n".repeat(150)));
        fs::write(&name, "").unwrap();
        fs::remove_file(&name).unwrap();
    }
    watch.until("gap").await;
    fs::write(agent.home().join("after"), "").unwrap();
    while name(&watch.until("created").await) != "after" {}
}
