//! The page that a Prometheus server reads, on a listener of its own.
//!
//! It is no part of the address that clients reach, because what it tells is the operator's affair. What is counted
//! elsewhere in atomic numbers is added up here, when somebody asks.

use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfast_core::ErrorCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::counters::{BOUNDS, ByCode, Counter, Counters, Histogram, METHODS, STATUSES, Whose};
use crate::gateway::Gateway;

/// How long a reader may take for its question and our answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Readers at a time: a few servers, and a person who looks. Others wait in the kernel's queue.
const READERS_MAX: usize = 8;

/// How long an accept that failed is not repeated.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The form of the page.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the page until it is dropped.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>) -> Infallible {
    let mut registry = Registry::with_prefix("landfast_gateway");
    registry.register_collector(Box::new(Page(gateway)));
    let (registry, readers) = (Arc::new(registry), Arc::new(Semaphore::new(READERS_MAX)));
    loop {
        let reader = Arc::clone(&readers).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            // A reader that is slow or breaks off asks again at its next turn.
            let _ = timeout(WITHIN, answer(stream, &registry)).await;
            drop(reader);
        });
    }
}

async fn answer(stream: TcpStream, registry: &Registry) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(page(&request, registry)) });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

fn page(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut text = String::new();
    text::encode(&mut text, registry).expect("a string takes text");
    *response.body_mut() = text.into();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(CONTENT_TYPE));
    response
}

struct Page(Arc<Gateway>);

impl Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let workers = self.0.workers();
        let mut sets: Vec<&Counters> = workers.iter().map(|(counters, _)| &**counters).collect();
        sets.push(&self.0.counters);
        let idle = workers.iter().map(|(_, pool)| pool.idle()).sum();
        let mut writer = Writer { encoder, sets };
        requests(&mut writer)?;
        connections(&mut writer, idle)?;
        sessions(&mut writer)?;
        limits(&mut writer)?;
        registry(&mut writer, &self.0)
    }
}

fn requests(writer: &mut Writer<'_, '_>) -> fmt::Result {
    let mut family = Vec::new();
    for (method, method_name) in METHODS.iter().enumerate() {
        for (status, status_name) in STATUSES.iter().enumerate() {
            let count = writer.sum(|counters| counters.requests(method, status));
            family.push(([("method", *method_name), ("status", *status_name)], count));
        }
    }
    writer.family("requests", "Requests that are over, and sessions at their end", family)?;
    let causes = writer.by_code(|counters| &counters.causes);
    writer.family("causes", "What did not simply end, by its error code", causes)?;
    writer.counter("attempts", "Attempts to reach an upstream", |counters| &counters.attempts)?;
    writer.histogram("request_duration_seconds", "From a request's head to the end of its answer", |counters| {
        &counters.durations
    })?;
    writer.histogram("first_byte_seconds", "From a request's head to the beginning of its answer", |counters| {
        &counters.first_bytes
    })?;
    writer.gauge("parked", "Requests and sessions that wait for a place to go to", |counters| {
        (&counters.parked, &counters.unparked)
    })?;
    writer.counter("up_bytes", "Bytes from clients, those of sessions at their end", |counters| &counters.up)?;
    writer.counter("down_bytes", "Bytes to clients, those of sessions at their end", |counters| &counters.down)
}

fn connections(writer: &mut Writer<'_, '_>, idle: u64) -> fmt::Result {
    writer.counter("connections", "Client connections that were accepted", |counters| &counters.accepted)?;
    writer.gauge("connections_open", "Client connections", |counters| (&counters.accepted, &counters.closed))?;
    writer.counter("upstream_connections", "Connections that were opened for requests", |counters| {
        &counters.upstream_opened
    })?;
    writer
        .counter("upstream_reuses", "Requests on a connection that was kept", |counters| &counters.upstream_reused)?;
    writer.value("upstream_connections_idle", "Connections that are kept for the next request", idle)
}

fn sessions(writer: &mut Writer<'_, '_>) -> fmt::Result {
    writer.counter("sessions_opened", "Sessions that were opened", |counters| &counters.sessions_opened)?;
    let ended = writer.sum(|counters| counters.sessions_ended.get());
    let mut family = writer.by_code(|counters| &counters.sessions_ended_by);
    let ended_by: u64 = family.iter().map(|(_, count)| count).sum();
    family.push(([("code", "none")], ended));
    writer.family("sessions_ended", "Sessions that have ended, by the error code that was their cause", family)?;
    let opened = writer.sum(|counters| counters.sessions_opened.get());
    writer.value("sessions_open", "Sessions", opened.saturating_sub(ended + ended_by))?;
    writer.counter("links", "Links that stood, of sessions and of kept connections", |counters| &counters.links)?;
    writer.histogram("pause_seconds", "How long those had no link, until the next stood", |counters| &counters.pauses)
}

fn limits(writer: &mut Writer<'_, '_>) -> fmt::Result {
    let mut family = Vec::new();
    for (whose, name) in [(Whose::Token, "token"), (Whose::Instance, "instance")] {
        for code in [ErrorCode::LimitRate, ErrorCode::LimitInFlight, ErrorCode::LimitSessions] {
            let count = writer.sum(|counters| counters.limited_by(whose, code));
            family.push(([("whose", name), ("code", code.as_str())], count));
        }
    }
    writer.family("limited", "Requests and sessions that a limit refused", family)
}

fn registry(writer: &mut Writer<'_, '_>, gateway: &Gateway) -> fmt::Result {
    let checks = [("good", &gateway.auth.good), ("bad", &gateway.auth.bad)];
    let family = checks.map(|(result, count)| ([("result", result)], count.get())).to_vec();
    writer.family("token_checks", "Signatures of tokens that were checked; a good token is remembered", family)?;
    writer.value("routes", "Instances in use, whose place is followed", gateway.routes.in_use())?;
    let silence = gateway.routes.silence().as_secs_f64();
    writer.value("watch_age_seconds", "For how long the registry has not answered; what is known is as old", silence)
}

/// Writes one metric after the other.
struct Writer<'a, 'e> {
    encoder: DescriptorEncoder<'e>,
    sets: Vec<&'a Counters>,
}

impl Writer<'_, '_> {
    fn sum(&self, read: impl Fn(&Counters) -> u64) -> u64 {
        self.sets.iter().map(|counters| read(counters)).sum()
    }

    /// The counts of the codes that have occurred: the others would be most of the page.
    fn by_code(&self, which: impl Fn(&Counters) -> &ByCode) -> Vec<([(&'static str, &'static str); 1], u64)> {
        let counts = ErrorCode::ALL.iter().map(|&code| (code, self.sum(|counters| which(counters).get(code))));
        counts.filter(|(_, count)| *count > 0).map(|(code, count)| ([("code", code.as_str())], count)).collect()
    }

    fn counter(&mut self, name: &str, help: &str, which: impl Fn(&Counters) -> &Counter) -> fmt::Result {
        let count = ConstCounter::new(self.sum(|counters| which(counters).get()));
        count.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn family<L: EncodeLabelSet>(&mut self, name: &str, help: &str, counts: Vec<(L, u64)>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in counts {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What has begun and not ended. The ends are read first, so that it is never below zero.
    fn gauge(&mut self, name: &str, help: &str, which: impl Fn(&Counters) -> (&Counter, &Counter)) -> fmt::Result {
        let ended = self.sum(|counters| which(counters).1.get());
        let begun = self.sum(|counters| which(counters).0.get());
        self.value(name, help, begun.saturating_sub(ended))
    }

    fn value<N>(&mut self, name: &str, help: &str, value: N) -> fmt::Result
    where
        ConstGauge<N>: EncodeMetric,
    {
        ConstGauge::new(value).encode(self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn histogram(&mut self, name: &str, help: &str, which: impl Fn(&Counters) -> &Histogram) -> fmt::Result {
        let (mut counts, mut seconds) = ([0; BOUNDS.len() + 1], 0.0);
        for counters in &self.sets {
            let (more, longer) = which(counters).get();
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
            seconds += longer;
        }
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(seconds, counts.iter().sum(), &buckets, None)
    }
}
