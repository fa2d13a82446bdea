//! What happens in an instance, as it happens and as it was.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use landfast_core::event::{Envelope, Telemetry};
use landfast_core::{InstanceId, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Client, DEADLINE, decode};
use crate::conversation::Stream;
use crate::error::Error;
use crate::follow::{Follow, Frame};
use crate::origin::Call;
use crate::process::Exit;

/// Where to begin with events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Since {
    /// With the next one.
    #[default]
    Now,
    /// With the oldest that the instance's agent remembers.
    Oldest,
    /// After the event with this id.
    Id(String),
}

/// Something about an instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Said {
    /// Something has happened.
    Event(Envelope),
    /// Events are missing.
    Gap(EventGap),
}

/// Events that cannot be had any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventGap {
    /// `gap`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id of the first that is missing.
    pub from: String,
    /// The id of the one that comes next.
    pub to: String,
}

/// An instance's events as they happen. It goes on where it was when its connection is lost.
#[derive(Debug)]
pub struct Events {
    follow: Follow,
}

/// A page of what has happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventPage {
    /// What is on it.
    pub items: Vec<Said>,
    /// The offset of the next page, if there is one.
    pub next: Option<String>,
}

/// What a service, or a process, has said and says. It goes on where it was when its connection is lost.
#[derive(Debug)]
pub struct Output {
    follow: Follow,
    /// Whether it ends where it is now.
    ends: bool,
    is_over: bool,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPiece {
    /// Bytes.
    Data {
        /// Which output.
        stream: Stream,
        /// Where in the log they stand.
        offset: u64,
        /// What was said.
        bytes: Bytes,
    },
    /// Bytes that are not kept any more.
    Gap {
        /// The offset of the first that is missing.
        from: u64,
        /// The offset of the one that comes next.
        to: u64,
    },
    /// The process has exited; a service's next start goes on in the same log.
    Exit(Exit),
}

impl Client {
    /// Follows an instance's events, of these types or of all. This wakes nobody: of an instance that sleeps, what it said
    /// is read page by page.
    pub fn events(&self, instance: InstanceId, kinds: &[String], since: Since) -> Events {
        let (replay, last) = match since {
            Since::Now => ("", None),
            Since::Oldest => ("replay=all", None),
            Since::Id(id) => ("", Some(id)),
        };
        let kinds = if kinds.is_empty() { String::new() } else { format!("type={}", kinds.join(",")) };
        let query = [kinds.as_str(), replay].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let path = format!("/telemetry/stream?{query}");
        Events { follow: Follow::new(self.clone(), instance, path, last) }
    }

    /// Reads a page of what has happened in an instance, also after its end. `query` holds the names and values of the API
    /// reference, such as `since=1h`, as they stand in a URL.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn event_page(&self, instance: InstanceId, query: &str) -> Result<EventPage, Error> {
        let target = format!("/v1/instances/{instance}/telemetry/events?{query}");
        let response = self.control_raw(&Call::new(Method::GET, target, DEADLINE)).await?;
        let items: Vec<Value> = decode(&response)?;
        let next = response.headers().get("x-next-offset").and_then(|next| next.to_str().ok());
        let next = next.filter(|next| *next != "0").map(ToOwned::to_owned);
        Ok(EventPage { items: items.into_iter().map(said).collect::<Result<_, _>>()?, next })
    }

    /// Says an event of the caller's own, and returns it with its number.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn say_event(&self, instance: InstanceId, kind: &str, data: &Value) -> Result<Envelope, Error> {
        let call = Call::new(Method::POST, Self::data_path(instance, "/telemetry/events"), DEADLINE);
        self.data(instance, &call.json(&serde_json::json!({"type": kind, "data": data}))).await
    }

    /// Tells what an instance's browser is watched for.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn telemetry(&self, instance: InstanceId) -> Result<Telemetry, Error> {
        self.data(instance, &Call::new(Method::GET, Self::data_path(instance, "/telemetry"), DEADLINE)).await
    }

    /// Says what an instance's browser is to be watched for.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn set_telemetry(&self, instance: InstanceId, wanted: Telemetry) -> Result<Telemetry, Error> {
        let call = Call::new(Method::PUT, Self::data_path(instance, "/telemetry"), DEADLINE);
        self.data(instance, &call.json(&wanted)).await
    }

    /// Reads what a service has said from an offset, and, if so wished, what it says from then on.
    pub fn service_output(&self, instance: InstanceId, name: ServiceName, from: u64, follow: bool) -> Output {
        let path = format!("/services/{name}/output?follow={follow}");
        let follow_it = Follow::new(self.clone(), instance, path, Some(from.to_string()));
        Output { follow: follow_it, ends: !follow, is_over: false }
    }
}

impl Events {
    /// The next event, or that some are missing.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error`]: the instance is gone, or the cell could not be reached for a minute.
    pub async fn next(&mut self) -> Result<Said, Error> {
        loop {
            match self.follow.next().await? {
                Some(Frame { data: Some(data), .. }) => {
                    let value = serde_json::from_str(&data);
                    return said(value.map_err(|error| Error::Protocol(format!("an event is no JSON: {error}")))?);
                }
                Some(Frame { data: None, .. }) => {}
                // The agent's end, which may not be the instance's.
                None => {
                    self.follow.reopen();
                    tokio::time::sleep(REOPEN_AFTER).await;
                }
            }
        }
    }

    /// The id of the last event that came or went by: with it another reader goes on.
    pub fn last_id(&self) -> Option<&str> {
        self.follow.last()
    }
}

/// Between a stream's end and its next opening: an agent that ends needs a moment for it.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

impl Output {
    /// The next piece; `None` at the end of what was asked for.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error`]: the instance is gone, or the cell could not be reached for a minute.
    pub async fn next(&mut self) -> Result<Option<OutputPiece>, Error> {
        if self.is_over {
            return Ok(None);
        }
        loop {
            match self.follow.next().await? {
                Some(Frame { event, data: Some(data), .. }) => {
                    let piece = piece(event.as_deref(), &data)?;
                    self.is_over = self.ends && matches!(piece, OutputPiece::Exit(_));
                    return Ok(Some(piece));
                }
                Some(Frame { data: None, .. }) => {}
                None if self.ends => {
                    self.is_over = true;
                    return Ok(None);
                }
                None => {
                    self.follow.reopen();
                    tokio::time::sleep(REOPEN_AFTER).await;
                }
            }
        }
    }
}

fn said(value: Value) -> Result<Said, Error> {
    let understood = if value["type"] == "gap" {
        serde_json::from_value(value).map(Said::Gap)
    } else {
        serde_json::from_value(value).map(Said::Event)
    };
    understood.map_err(|error| Error::Protocol(format!("an event was not understood: {error}")))
}

fn piece(event: Option<&str>, data: &str) -> Result<OutputPiece, Error> {
    #[derive(Deserialize)]
    struct Data {
        offset: u64,
        stream: String,
        data: String,
    }
    #[derive(Deserialize)]
    struct Gap {
        from: u64,
        to: u64,
    }
    let wrong = |what: &dyn std::fmt::Display| Error::Protocol(format!("output was not understood: {what}"));
    match event {
        Some("gap") => {
            let Gap { from, to } = serde_json::from_str(data).map_err(|error| wrong(&error))?;
            Ok(OutputPiece::Gap { from, to })
        }
        Some("exit") => serde_json::from_str(data).map(OutputPiece::Exit).map_err(|error| wrong(&error)),
        _ => {
            let Data { offset, stream, data } = serde_json::from_str(data).map_err(|error| wrong(&error))?;
            let stream = if stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
            let bytes = STANDARD.decode(data).map_err(|error| wrong(&error))?.into();
            Ok(OutputPiece::Data { stream, offset, bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_gaps_are_read_as_the_architecture_writes_them() {
        let json =
            r#"{"seq":3,"event":{"ts":7,"type":"x","category":"custom","source":{"kind":"agent"},"data":{"a":1}}}"#;
        let Said::Event(envelope) = said(serde_json::from_str(json).unwrap()).unwrap() else { panic!("an event") };
        assert_eq!((envelope.seq, envelope.event.kind.as_ref()), (3, "x"));
        let json = r#"{"type":"gap","from":"1.2","to":"1.9"}"#;
        let Said::Gap(gap) = said(serde_json::from_str(json).unwrap()).unwrap() else { panic!("a gap") };
        assert_eq!((gap.from.as_str(), gap.to.as_str()), ("1.2", "1.9"));
        assert!(said(serde_json::json!({"seq": "x"})).is_err());
    }

    #[test]
    fn output_is_read_as_the_architecture_writes_it() {
        let data = piece(None, r#"{"offset":3,"stream":"stderr","data":"ZXJy"}"#).unwrap();
        assert_eq!(data, OutputPiece::Data { stream: Stream::Stderr, offset: 3, bytes: "err".into() });
        assert_eq!(piece(Some("gap"), r#"{"from":1,"to":5}"#).unwrap(), OutputPiece::Gap { from: 1, to: 5 });
        assert_eq!(piece(Some("exit"), r#"{"code":3}"#).unwrap(), OutputPiece::Exit(Exit::Code(3)));
        assert!(piece(None, "{}").is_err());
    }
}
