//! Events by way of the control plane: from the agent, from the archive, and never both or neither.

use landfast_core::event::{Event, Segment};
use landfast_core::lifecycle::{desire_deleted, ended};

use super::forward::Peer;
use super::*;
use crate::archive::Archive;

const START: u64 = 1_790_000_000_000;

fn line(seq: u64) -> String {
    format!("{{\"seq\":{seq},\"event\":{}}}\n", Event::new("mine", seq).to_bounded_json())
}

impl Api {
    /// Archives two events of an instance, as its node does.
    async fn archive(&self, id: InstanceId) {
        let archive = Archive::open(&self.cell.dir, None).unwrap();
        let segment = Segment { start: START, first: 1 };
        archive.put(id, segment, format!("{}{}", line(1), line(2)).into()).await.unwrap();
    }

    async fn seqs(&self, id: InstanceId, query: &str) -> (Vec<u64>, String) {
        let answer = self.get(&format!("/v1/instances/{id}/telemetry/events?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let next = answer.headers["x-next-offset"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers["x-has-more"], if next == "0" { "false" } else { "true" });
        (answer.body.as_array().unwrap().iter().map(|said| said["seq"].as_u64().unwrap_or(0)).collect(), next)
    }
}

#[tokio::test]
async fn while_there_is_an_agent_it_is_asked() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    api.archive(instance.id).await;
    let target = format!("/v1/instances/{}/telemetry/events?type=a%2Cb", instance.id);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-next-offset: 7\r\nx-has-more: true\r\n\r\n[]";
    let (got, sent) = tokio::join!(api.get(&target), peer.answer(&instance, answer));
    assert_eq!((got.status, &got.headers["x-next-offset"]), (200, &"7".parse().unwrap()));
    assert_eq!(sent.target, "/telemetry/events?type=a%2Cb");
}

/// What an agent says whose events begin with this number of a later start, and what of them.
fn has(oldest: u64, seqs: &[u64]) -> String {
    let lines: Vec<_> = seqs.iter().map(|&seq| line(seq).trim_end().to_owned()).collect();
    let body = format!("[{}]", lines.join(","));
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-next-offset: 0\r\nx-has-more: false\r\n\
         landfast-oldest: {}.{oldest}\r\n\r\n{body}",
        body.len(),
        START + 10_000
    )
}

/// Everything that pages of this size say: numbers, and gaps as 0.
async fn paged(api: &Api, peer: &Peer, instance: &Instance, order: &str, agent: &str) -> Vec<u64> {
    let (mut all, mut offset) = (Vec::new(), "0".to_owned());
    loop {
        let query = format!("limit=2&order={order}&offset={offset}");
        let ((page, next), sent) = tokio::join!(api.seqs(instance.id, &query), peer.answer(instance, agent));
        assert_eq!(sent.headers.get("landfast-older"), Some("archive"));
        all.extend(page);
        if next == "0" {
            return all;
        }
        offset = next;
    }
}

#[tokio::test]
async fn what_the_agent_does_not_have_comes_from_the_archive_in_either_order_and_once() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let instance = api
        .step(instance.id, |record| {
            record.generation = Generation(2);
            Ok(())
        })
        .await;
    api.archive(instance.id).await;
    assert_eq!(paged(&api, &peer, &instance, "asc", &has(1, &[1, 2])).await, [1, 2, 1, 2]);
    assert_eq!(paged(&api, &peer, &instance, "desc", &has(1, &[2, 1])).await, [2, 1, 2, 1]);
    // What nobody has is a gap, once.
    assert_eq!(paged(&api, &peer, &instance, "asc", &has(5, &[5, 6])).await, [1, 2, 0, 5, 6]);
    assert_eq!(paged(&api, &peer, &instance, "desc", &has(5, &[6, 5])).await, [6, 5, 0, 2, 1]);
}

#[tokio::test]
async fn an_agent_that_is_being_ended_is_not_the_last_word_on_what_it_said() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let (id, node, generation) = (instance.id, instance.node.unwrap(), instance.generation);
    api.archive(id).await;
    api.step(id, |record| Ok(desire_deleted(record)?)).await;
    let deleting = async {
        peer.refuse(&instance, ErrorCode::InstanceGone).await;
        api.step(id, |record| Ok(ended(record, node, generation, clock::unix_millis())?)).await;
    };
    let (read, ()) = tokio::join!(api.seqs(id, ""), deleting);
    assert_eq!(read, (vec![1, 2], "0".to_owned()));
}

#[tokio::test]
async fn afterwards_the_archive_answers_also_for_a_tombstone_and_after_the_record_is_gone() {
    let api = Api::start().await;
    let (_peer, instance) = Peer::with_instance(&api).await;
    let (id, node, generation) = (instance.id, instance.node.unwrap(), instance.generation);
    api.archive(id).await;
    api.step(id, |record| Ok(desire_deleted(record)?)).await;
    api.step(id, |record| Ok(ended(record, node, generation, clock::unix_millis())?)).await;
    assert_eq!(api.seqs(id, "limit=1").await.0, [1]);
    let (_, next) = api.seqs(id, "limit=1").await;
    assert_eq!(api.seqs(id, &format!("offset={next}")).await, (vec![2], "0".to_owned()));
    let entry = api.store.get(&keys::instance(id)).await.unwrap().unwrap();
    api.store.delete(&keys::instance(id), Expect::Revision(entry.revision)).await.unwrap();
    assert_eq!(api.seqs(id, "order=desc").await, (vec![2, 1], "0".to_owned()));
}

#[tokio::test]
async fn of_an_instance_that_never_was_there_is_nothing_and_a_query_that_cannot_be_is_refused() {
    let api = Api::start().await;
    let id = random::instance_id();
    api.get(&format!("/v1/instances/{id}/telemetry/events")).await.refuses(ErrorCode::InstanceUnknown);
    let answer = api.get(&format!("/v1/instances/{id}/telemetry/events?limit=x")).await;
    assert!(answer.refuses(ErrorCode::RequestInvalid).contains("limit"));
}

#[tokio::test]
async fn a_stream_comes_through_as_it_is_said() {
    let api = Api::start().await;
    let (peer, instance) = Peer::with_instance(&api).await;
    let target = format!("/v1/instances/{}/telemetry/stream?replay=all", instance.id);
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nid: 1.1\ndata: {}\n\n";
    let headers = [("last-event-id", "1.0")];
    let (got, sent) =
        tokio::join!(api.ask_with("GET", &target, &headers, String::new()), peer.answer(&instance, answer));
    assert_eq!((got.status, &got.body), (200, &json!("id: 1.1\ndata: {}\n\n")));
    assert_eq!(got.headers["content-type"], "text/event-stream");
    assert_eq!(
        (sent.target.as_str(), sent.headers.get("last-event-id")),
        ("/telemetry/stream?replay=all", Some("1.0"))
    );
}
