//! The workloads, and what is taken from each.

use std::time::Duration;

use anyhow::{Result, bail};
use landfast_core::ws::Opcode;
use landfast_scenarios::plain::KEY;

use super::idle::{self, Idle};
use super::load::{self, Exchange, Load, Sample, Watched};
use super::open;
use super::side::{Side, Stage};
use super::upstream::{SMALL, pattern};

/// Bytes of a large answer.
const LARGE: usize = 1 << 20;

/// Bytes of a message of a stream, and how many are under way.
const STREAMED: (usize, usize) = (16 * 1024, 8);

/// Requests a second where latency is looked at: far below what any side can carry.
const STEADY: u32 = 5_000;

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Lasting connections, a small answer each time.
    Get,
    /// The same at a steady rate.
    Steady,
    /// A connection for each request.
    Churn,
    /// Small messages, one under way on each of many WebSockets.
    Ping,
    /// Larger messages, many under way on one WebSocket.
    Stream,
    /// Large answers.
    Big,
    /// Open and silent WebSockets.
    Idle,
    /// Open and silent connections for requests.
    IdleHttp,
}

/// How much work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) rounds: usize,
    /// Time before a measurement, and of it.
    pub(crate) time: (Duration, Duration),
    pub(crate) idle: usize,
}

/// What one workload gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) about: &'static str,
}

/// A value, and how many processors strangers used while it was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) values: Vec<f64>,
    pub(crate) strangers: f64,
}

impl Workload {
    /// Those whose memory is looked at come first, while every side is fresh: a used allocator hides the cost.
    pub(crate) const fn all(quick: bool) -> &'static [Self] {
        if quick {
            &[Self::Idle, Self::Get, Self::Churn, Self::Ping, Self::Stream, Self::Big]
        } else {
            &[Self::Idle, Self::IdleHttp, Self::Get, Self::Steady, Self::Churn, Self::Ping, Self::Stream, Self::Big]
        }
    }

    /// Whether one round is enough, and fresh processes are needed.
    pub(crate) const fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::IdleHttp)
    }

    /// What is taken from it, in the order of [`Taken::values`].
    pub(crate) const fn measures(self) -> &'static [Measure] {
        const fn measure(name: &'static str, unit: &'static str, about: &'static str) -> Measure {
            Measure { name, unit, about }
        }
        const PROCESSOR: &str = "us/op";
        match self {
            Self::Get => &[const { measure("get", PROCESSOR, "GET of 64 B, 64 lasting connections") }],
            Self::Steady => &[
                const { measure("get_5k_p50", "us", "the same at 5,000 a second: latency") },
                const { measure("get_5k_p99", "us", "") },
            ],
            Self::Churn => &[const { measure("churn", PROCESSOR, "a connection for each GET, 64 at a time") }],
            Self::Ping => &[const { measure("ping", PROCESSOR, "WebSocket messages of 64 B, 100 connections") }],
            Self::Stream => {
                &[const { measure("stream", PROCESSOR, "messages of 16 KiB, one WebSocket, eight under way") }]
            }
            Self::Big => &[const { measure("big", "s/GB", "answers of 1 MiB, 8 connections") }],
            Self::Idle => &[const { measure("idle", "B", "memory of an idle WebSocket") }],
            Self::IdleHttp => &[const { measure("idle_http", "B", "memory of an idle connection") }],
        }
    }

    /// Puts it on a side.
    ///
    /// # Errors
    ///
    /// The side answered otherwise than with what was asked for.
    pub(crate) fn run(self, stage: &Stage, side: &Side, work: Work) -> Result<Taken> {
        match self {
            Self::Idle => {
                let what = Idle::WebSockets(b"is anybody there?");
                silent(idle::memory(side, &upgrade(stage), work.idle, what)?)
            }
            Self::IdleHttp => {
                silent(idle::memory(side, &stage.request("/", ""), work.idle, Idle::Requests(&pattern(SMALL)))?)
            }
            Self::Get | Self::Churn | Self::Steady | Self::Big => self.exchange_requests(stage, side, work),
            Self::Ping => self.exchange(stage, side, work, &upgrade(stage), &pattern(SMALL)),
            Self::Stream => self.exchange(stage, side, work, &upgrade(stage), &pattern(STREAMED.0)),
        }
    }

    fn exchange_requests(self, stage: &Stage, side: &Side, work: Work) -> Result<Taken> {
        let (path, size) = if self == Self::Big { (format!("/bytes/{LARGE}"), LARGE) } else { ("/".to_owned(), SMALL) };
        let headers = if self == Self::Churn { "Connection: close\r\n" } else { "" };
        let (request, body) = (stage.request(&path, headers), pattern(size));
        // A refusal is best told by one request.
        if size == SMALL {
            open::get(&mut open::connect(side.address)?, &request, &body)?;
        }
        self.exchange(stage, side, work, &request, &body)
    }

    fn exchange(self, stage: &Stage, side: &Side, work: Work, request: &[u8], expected: &[u8]) -> Result<Taken> {
        let (exchange, connections) = match self {
            Self::Get | Self::Steady => (Exchange::Requests, 64),
            Self::Big => (Exchange::Requests, 8),
            Self::Churn => (Exchange::Connections, 64),
            Self::Stream => (Exchange::Messages(Opcode::Binary, STREAMED.1), 1),
            Self::Ping | Self::Idle | Self::IdleHttp => (Exchange::Messages(Opcode::Text, 1), 100),
        };
        let rate = (self == Self::Steady).then_some(STEADY);
        let load = Load { address: side.address, exchange, request, expected, connections, rate, time: work.time };
        let sample = load::run(&load, &Watched { side: side.pids.clone(), ours: stage.helpers() })?;
        if !sample.failures.is_empty() || sample.done == 0 {
            bail!("{} exchanges were whole, and these failed: {:?}", sample.done, sample.failures);
        }
        Ok(Taken { strangers: sample.strangers, values: self.values(&sample) })
    }

    fn values(self, sample: &Sample) -> Vec<f64> {
        let each = sample.processor / sample.done as f64;
        match self {
            Self::Steady => vec![sample.times.micros(50.0), sample.times.micros(99.0)],
            Self::Big => vec![each * 1e9 / LARGE as f64],
            Self::Get | Self::Churn | Self::Ping | Self::Stream | Self::Idle | Self::IdleHttp => vec![each * 1e6],
        }
    }
}

fn silent(memory: f64) -> Result<Taken> {
    Ok(Taken { values: vec![memory], strangers: 0.0 })
}

fn upgrade(stage: &Stage) -> Vec<u8> {
    let headers = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
        KEY.0
    );
    stage.request("/", &headers)
}
