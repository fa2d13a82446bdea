//! Events by way of the control plane: from the agent, from the archive, and never both or neither.

use landfast_core::event::{Event, Segment};
use landfast_core::lifecycle::{desire_deleted, ended};

use super::forward::Peer;
use super::*;
use crate::archive::Archive;

fn line(seq: u64) -> String {
    format!("{{\"seq\":{seq},\"event\":{}}}\n", Event::new("mine", seq).to_bounded_json())
}

impl Api {
    /// Archives two events of an instance, as its node does.
    async fn archive(&self, id: InstanceId) {
        let archive = Archive::open(&self.cell.dir, None).unwrap();
        let segment = Segment { start: 1_790_000_000_000, first: 1 };
        archive.put(id, segment, format!("{}{}", line(1), line(2)).into()).await.unwrap();
    }

    async fn seqs(&self, id: InstanceId, query: &str) -> (Vec<u64>, String) {
        let answer = self.get(&format!("/v1/instances/{id}/telemetry/events?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let next = answer.headers["x-next-offset"].to_str().unwrap().to_owned();
        assert_eq!(answer.headers["x-has-more"], if next == "0" { "false" } else { "true" });
        (answer.body.as_array().unwrap().iter().map(|said| said["seq"].as_u64().unwrap()).collect(), next)
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
