//! What is known of each request and session while it lasts, and what is told of it when it is over: to the access log,
//! the counters and the trace.
//!
//! The log has a line for each: what was asked, where it went and how it ended; never a token, and never a query, which
//! may hold one.

use std::sync::Arc;

use landfast_core::id::RequestId;
use landfast_core::limit::Entrance;
use landfast_core::record::Generation;
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::head::Headers;
use landfast_net::{clock, random};
use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::Span;

use crate::auth::Access;
use crate::client::{Client, Request};
use crate::cors::Grant;
use crate::counters::{Counters, METHODS, method_class};
use crate::gateway::{Gateway, Worker};
use crate::headers::Origin;
use crate::limits::Permits;
use crate::routes::Entry;
use crate::trace;

/// What every answer says of its request, as far as it is known.
const REQUEST_ID: &str = "landfast-request-id";
const INSTANCE: &str = "landfast-instance";
const GENERATION: &str = "landfast-generation";
const ATTEMPTS: &str = "landfast-attempts";

/// What is known of one request or session. Dropping it tells of it, and lets it out of its limits.
#[derive(Debug)]
pub(crate) struct Record {
    id: RequestId,
    /// What only the log and the trace need, if there is one.
    line: Option<Line>,
    method: usize,
    grant: Grant,
    counters: Arc<Counters>,
    is_logged: bool,
    permits: Permits,
    span: Option<Box<Span>>,
    started: Instant,
    began: Option<Instant>,
    ended: Option<Instant>,
    is_session: bool,
    /// The instance it went to.
    pub(crate) instance: Option<InstanceId>,
    /// The generation that answered.
    pub(crate) generation: Option<Generation>,
    /// How often an upstream was tried.
    pub(crate) attempts: u32,
    /// How many links carried the session.
    pub(crate) links: u64,
    /// The answer's status; `None` if the client left before there was one.
    pub(crate) status: Option<u16>,
    /// Why it ended, where it did not simply end.
    pub(crate) cause: Option<ErrorCode>,
    /// Bytes of bodies or of the session, from the client.
    pub(crate) up: u64,
    /// The same, to the client.
    pub(crate) down: u64,
}

/// What stands in a line of the log because the client said it.
#[derive(Debug)]
struct Line {
    method: String,
    path: String,
    client: String,
    version: &'static str,
}

impl Record {
    /// Begins the record of a request.
    pub(crate) fn new<C: Client>(worker: &Worker, origin: &Origin, client: &C, request: &Request) -> Self {
        let is_told = worker.gateway.config.access_log || worker.gateway.traces.is_some();
        let line = is_told.then(|| Line {
            method: request.method.clone(),
            path: request.target.split('?').next().unwrap_or("").to_owned(),
            client: origin.client().to_owned(),
            version: client.version(),
        });
        Self {
            id: random::request_id(),
            line,
            method: method_class(&request.method),
            grant: Grant::of(&worker.gateway.config, &request.headers),
            counters: Arc::clone(&worker.counters),
            is_logged: worker.gateway.config.access_log,
            permits: Permits::default(),
            span: None,
            started: clock::now(),
            began: None,
            ended: None,
            is_session: false,
            instance: None,
            generation: None,
            attempts: 0,
            links: 0,
            status: None,
            cause: None,
            up: 0,
            down: 0,
        }
    }

    /// Asks the limits of the request's token.
    ///
    /// # Errors
    ///
    /// `limit.*`.
    pub(crate) fn ask_token(&mut self, access: &Access, entrance: Entrance, gateway: &Gateway) -> Result<(), Problem> {
        self.permits.ask_token(access, entrance, &gateway.config.limits.token, self.started, &self.counters)
    }

    /// Asks the limits of the request's instance.
    ///
    /// # Errors
    ///
    /// `limit.*`.
    pub(crate) fn ask_instance(&mut self, entry: &Entry, entrance: Entrance, gateway: &Gateway) -> Result<(), Problem> {
        self.permits.ask_instance(entry, entrance, gateway, self.started, &self.counters)
    }

    /// Begins its span, as part of the trace that its headers name; they name ours to the next hop then.
    pub(crate) fn trace(&mut self, gateway: &Gateway, headers: &mut Headers) {
        if let Some(traces) = &gateway.traces {
            self.span = traces.begin(METHODS[self.method], headers);
        }
    }

    /// What is counted where the request is served.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Its answer began at that time.
    pub(crate) const fn begins(&mut self, at: Instant) {
        self.began = Some(at);
    }

    /// Its answer has ended at that time, whole or not.
    pub(crate) const fn ends(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// It goes on as a session.
    pub(crate) fn becomes_session(&mut self) {
        self.is_session = true;
        self.began = Some(clock::now());
        self.counters.sessions_opened.add(1);
    }

    /// Names the request to whoever answers it, so that its log and ours tell of the same.
    pub(crate) fn name(&self, headers: &mut Headers) {
        headers.push(REQUEST_ID, self.id.text());
    }

    /// Takes away what another server has said in our words.
    pub(crate) fn unstamp(headers: &mut Headers) {
        [REQUEST_ID, INSTANCE, GENERATION, ATTEMPTS].into_iter().for_each(|name| headers.remove(name));
    }

    /// Tells the client what is known: the request's id always, the rest where there is any.
    pub(crate) fn stamp(&self, headers: &mut Headers) {
        headers.push(REQUEST_ID, self.id.text());
        if let Some(instance) = self.instance {
            headers.push(INSTANCE, instance.text());
        }
        if let Some(generation) = self.generation {
            headers.push_number(GENERATION, generation.0);
        }
        if self.attempts > 0 {
            headers.push_number(ATTEMPTS, self.attempts.into());
        }
        self.grant.stamp(headers);
    }

    /// What is granted to the page that it comes from.
    pub(crate) const fn grant(&self) -> &Grant {
        &self.grant
    }

    fn count(&self, began: Option<Instant>, ended: Instant) {
        let counters = &*self.counters;
        counters.request(self.method, self.status);
        counters.attempts.add(self.attempts.into());
        counters.up.add(self.up);
        counters.down.add(self.down);
        if let Some(began) = began {
            counters.first_bytes.add(began.since(self.started));
        }
        if let Some(cause) = self.cause {
            counters.causes.add(cause);
        }
        match (self.is_session, self.cause) {
            (false, _) => counters.durations.add(ended.since(self.started)),
            (true, Some(cause)) => counters.sessions_ended_by.add(cause),
            (true, None) => counters.sessions_ended.add(1),
        }
    }

    /// What a span tells beside how it ended.
    fn facts(&self) -> Vec<KeyValue> {
        let mut facts = vec![
            KeyValue::new("http.request.method", METHODS[self.method]),
            KeyValue::new("landfast.request", self.id.to_string()),
            KeyValue::new("landfast.attempts", i64::from(self.attempts)),
        ];
        if let Some(instance) = self.instance {
            facts.push(KeyValue::new("landfast.instance", instance.to_string()));
        }
        if let Some(generation) = self.generation {
            facts.push(KeyValue::new("landfast.generation", generation.0 as i64));
        }
        if let Some(line) = &self.line {
            facts.push(KeyValue::new("url.path", line.path.clone()));
            facts.push(KeyValue::new("client.address", line.client.clone()));
            facts.push(KeyValue::new("network.protocol.version", line.version));
        }
        facts
    }

    fn log(&self, line: &Line, began: Option<Instant>, ended: Instant) {
        tracing::info!(
            target: "access",
            request = %self.id,
            client = line.client,
            http = line.version,
            method = line.method,
            path = line.path,
            instance = self.instance.map(tracing::field::display),
            generation = self.generation.map(|generation| generation.0),
            status = self.status,
            cause = self.cause.map(ErrorCode::as_str),
            attempts = self.attempts,
            links = self.links,
            up = self.up,
            down = self.down,
            first_byte_ms = began.map(|began| millis(self.started, began)),
            ms = millis(self.started, ended),
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.cause.get_or_insert(ErrorCode::ClientLost);
        }
        let ended = self.ended.unwrap_or_else(clock::now);
        // An answer of ours is short: it ends when it begins.
        let began = self.began.or_else(|| self.status.map(|_| ended));
        self.count(began, ended);
        if let Some(line) = self.line.as_ref().filter(|_| self.is_logged) {
            self.log(line, began, ended);
        }
        if let Some(span) = self.span.take() {
            trace::end(span, self.status, self.cause, self.facts());
        }
    }
}

/// Tells of what was refused before it was a request.
pub(crate) fn refused(worker: &Worker, origin: &Origin, version: &'static str, problem: &Problem) {
    worker.counters.causes.add(problem.code);
    if worker.gateway.config.access_log {
        let (status, cause) = (problem.code.status_or_500(), problem.code.as_str());
        tracing::info!(target: "access", client = origin.client(), http = version, status, cause);
    }
}

fn millis(from: Instant, until: Instant) -> f64 {
    // Microseconds are the most that anybody reads.
    until.since(from).as_micros() as f64 / 1000.0
}
