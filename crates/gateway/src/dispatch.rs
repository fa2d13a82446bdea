//! What a request is for, and who answers it.

use futures_util::future::BoxFuture;
use landfast_core::route::Lookup;
use landfast_core::{ErrorCode, Problem, lifecycle};
use landfast_net::carry::Local;
use landfast_net::head::{RequestHead, ResponseHead};
use landfast_net::relay::Target;

use crate::access::Record;
use crate::answer::{self, Answer};
use crate::api;
use crate::client::{BodySize, Client, Request, Upgrade};
use crate::direct::Direct;
use crate::exchange::{say, unless_gone};
use crate::first::{self, NoLink};
use crate::forward::{self, Call, Forwarded, Switched, Unanswered, Wishes};
use crate::gateway::{Gateway, Worker};
use crate::headers::Origin;
use crate::hold::{self, Held};
use crate::kernel::Manners;
use crate::limits::{self, entrance};
use crate::links::{self, Relayed};
use crate::netcheck;
use crate::place::{self, Inside, Place};
use crate::upstream;

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was answered as a whole.
    Answered,
    /// Its answer broke off, and the client must see that.
    Cut,
    /// The client left.
    Gone,
    /// Its connection goes on as something else.
    Upgraded(Upgraded),
}

/// What goes on with a client's connection after a 101.
#[derive(Debug)]
pub(crate) struct Upgraded {
    kind: Kind,
    record: Box<Record>,
}

#[derive(Debug)]
enum Kind {
    Held(Box<Held>),
    Direct(Box<Direct>),
    Relayed(Box<Relayed>),
}

/// What a request has come to before its client was told.
enum Reply {
    /// The client was told as it went along.
    Forwarded(Forwarded),
    /// This is to be said.
    Whole(Answer),
    /// This is to be said, and then the connection goes on so.
    Switch(ResponseHead, Kind),
}

impl Upgraded {
    /// Goes on with the client's stream. Boxed by itself, so that a session costs what it needs and not what the largest
    /// of them would.
    pub(crate) fn run<S>(self, client: S) -> BoxFuture<'static, ()>
    where
        S: Local + Send + 'static,
    {
        match self.kind {
            Kind::Held(held) => Box::pin(held.run(client, self.record)),
            Kind::Direct(direct) => Box::pin(direct.run(client, self.record)),
            Kind::Relayed(relayed) => Box::pin(relayed.run(client, self.record)),
        }
    }

    /// Ends what was begun for a client that left before its 101.
    pub(crate) async fn abandon(mut self) {
        self.record.cause = Some(ErrorCode::ClientLost);
        match self.kind {
            Kind::Held(held) => held.abandon().await,
            Kind::Direct(_) | Kind::Relayed(_) => {}
        }
    }
}

/// Answers one request.
///
/// Cancel safe in that the client's connection must be dropped; everything that was begun for it goes with it.
pub(crate) async fn respond<C: Client>(worker: &Worker, origin: &Origin, client: &mut C, request: Request) -> Outcome {
    let gateway = &worker.gateway;
    let patience = gateway.config.patience().client;
    if let Some(Answer { head, body, .. }) = health(gateway, &request.target) {
        return match say(client, head, &body, patience).await {
            Ok(()) => Outcome::Answered,
            Err(_) => Outcome::Gone,
        };
    }
    let origin = &*origin.behind_proxies(&request.headers, &gateway.config);
    let mut record = Box::new(Record::new(worker, origin, client, &request));
    let manners = Manners::of(&request);
    let reply = reply(worker, origin, client, request, &mut record).await;
    let answer = match reply {
        Ok(Reply::Forwarded(Forwarded::Answered)) => return Outcome::Answered,
        Ok(Reply::Forwarded(Forwarded::Cut(code))) => {
            record.cause = Some(code);
            return Outcome::Cut;
        }
        Err(Unanswered::Gone) | Ok(Reply::Forwarded(Forwarded::Gone)) => {
            record.cause = Some(ErrorCode::ClientLost);
            return Outcome::Gone;
        }
        Ok(Reply::Forwarded(Forwarded::Switched(_))) => manners.refusal(&ErrorCode::Internal.into()),
        Ok(Reply::Switch(head, kind)) => return switch(client, head, Upgraded { kind, record }).await,
        Ok(Reply::Whole(answer)) => answer,
        Err(Unanswered::Refused(problem)) => manners.refusal(&problem),
    };
    let Answer { mut head, body, cause } = answer;
    (record.status, record.cause) = (Some(head.status), cause);
    record.stamp(&mut head.headers);
    record.down = body.len() as u64;
    match say(client, head, &body, patience).await {
        Ok(()) => Outcome::Answered,
        Err(_) => Outcome::Gone,
    }
}

/// Tells a client that its connection goes on as something else.
async fn switch<C: Client>(client: &mut C, mut head: ResponseHead, mut upgraded: Upgraded) -> Outcome {
    upgraded.record.status = Some(head.status);
    upgraded.record.stamp(&mut head.headers);
    upgraded.record.becomes_session();
    client.begin(head, BodySize::Open);
    if std::future::poll_fn(|cx| client.poll_flush(cx)).await.is_err() {
        upgraded.abandon().await;
        return Outcome::Gone;
    }
    Outcome::Upgraded(upgraded)
}

/// The answers for whoever watches over this process; they come too often to be logged.
fn health(gateway: &Gateway, path: &str) -> Option<Answer> {
    match path {
        "/livez" => Some(answer::empty(200)),
        "/readyz" if gateway.drain.has_begun() => Some(answer::refusal(&ErrorCode::GatewayDraining.into())),
        "/readyz" if gateway.is_loaded() => Some(ready(gateway)),
        "/readyz" => Some(answer::refusal(&ErrorCode::RegistryUnavailable.into())),
        _ => None,
    }
}

/// It serves; how old what it knows is, whoever watches over it may want to know.
fn ready(gateway: &Gateway) -> Answer {
    let mut answer = answer::empty(200);
    answer.head.headers.push("landfast-watch-age-ms", gateway.routes.silence().as_millis().to_string());
    answer
}

async fn reply<C: Client>(
    worker: &Worker,
    origin: &Origin,
    client: &mut C,
    mut request: Request,
    record: &mut Record,
) -> Result<Reply, Unanswered> {
    if let Some(answer) = record.grant().preflight(&request) {
        return Ok(Reply::Whole(answer));
    }
    check_expectation(&request)?;
    let config = &worker.gateway.config;
    limits::check_body(request.body, config.body_max)?;
    if request.method == "GET" && request.target == netcheck::PATH {
        let looked = unless_gone(client, Box::pin(netcheck::look(&worker.gateway, &request.headers))).await?;
        return Ok(Reply::Whole(looked?));
    }
    match Place::of(&request.target, &request.headers, config.domain.as_deref())? {
        Place::Api => {
            origin.mark(&mut request.headers, request.body);
            record.trace(&worker.gateway, &mut request.headers);
            record.name(&mut request.headers);
            Ok(Reply::Forwarded(Box::pin(api::forward(worker, client, request, record)).await?))
        }
        Place::Instance(inside) => instance(worker, origin, client, inside, request, record).await,
    }
}

async fn instance<C: Client>(
    worker: &Worker,
    origin: &Origin,
    client: &mut C,
    inside: Inside,
    request: Request,
    record: &mut Record,
) -> Result<Reply, Unanswered> {
    let gateway = &worker.gateway;
    let Inside { instance, target, mut path } = inside;
    let Request { method, target: asked, mut headers, body, upgrade } = request;
    record.instance = Some(instance);
    let access = gateway.auth.admit(&mut headers, &mut path, instance)?;
    access.check(target, &path)?;
    if upgrade != Some(Upgrade::Link) {
        record.ask_token(&access, entrance(upgrade), gateway)?;
    }
    let route_deadline = gateway.config.route_deadline();
    if upgrade.is_some() {
        check_upgrade(gateway, &method, body)?;
    }
    if upgrade == Some(Upgrade::Link) {
        let asked = links::read(&headers, &path, &gateway.auth, &access, origin)?;
        record.ask_token(&access, asked.entrance(), gateway)?;
        let wishes = Wishes::of(&headers, asked.patience(route_deadline))?;
        let opening = Box::pin(links::open(gateway, instance, access, &asked, wishes, record));
        let opened = unless_gone(client, opening).await?;
        return Ok(switched(opened, |relayed| Kind::Relayed(Box::new(relayed)))?);
    }
    let is_of_browser = upgrade.is_some() && target == Target::Agent && place::is_browser(&path);
    let limit = if is_of_browser { first::for_browser(route_deadline) } else { route_deadline };
    let mut wishes = Wishes::of(&headers, limit)?;
    wishes.wakes &= target != Target::Agent || lifecycle::wakes(&path);
    origin.mark(&mut headers, body);
    record.trace(gateway, &mut headers);
    if target == Target::Agent && is_discovery(&path) {
        origin.tell_public(&mut headers, &asked, &path);
    }
    if upgrade == Some(Upgrade::WebSocket) {
        headers.push("connection", "Upgrade");
        headers.push("upgrade", "websocket");
    }
    let call = Call { instance, target, head: RequestHead { method, target: path, headers }, body, upgrade, wishes };
    if upgrade.is_some() && !Box::pin(is_direct(gateway, &call)).await? {
        let opened = unless_gone(client, Box::pin(hold::open(gateway, access, call, record))).await?;
        return Ok(switched(opened, |held| Kind::Held(Box::new(held)))?);
    }
    match forward::forward(worker, client, &call, record).await? {
        Forwarded::Switched(switched) => {
            let Switched { head, upstream, generation } = *switched;
            let direct = Box::pin(Direct::new(gateway, access, upstream, instance, generation)).await?;
            Ok(Reply::Switch(head, Kind::Direct(Box::new(direct))))
        }
        forwarded => Ok(Reply::Forwarded(forwarded)),
    }
}

/// Whether the agent's answer holds URLs, which must lead back here.
fn is_discovery(path: &str) -> bool {
    path.strip_prefix("/json").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

/// Whether a place is reached without an agent, who could keep a session.
async fn is_direct(gateway: &Gateway, call: &Call) -> Result<bool, Problem> {
    if !matches!(call.target, Target::Service(_)) {
        return Ok(false);
    }
    let entry = gateway.routes.look(call.instance).await?;
    match &*entry.state() {
        Lookup::Known(route) => Ok(upstream::direct(route, call.target)?.is_some()),
        // Whoever opens the session finds out what is so.
        Lookup::Asking | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => Ok(false),
    }
}

fn switched<T>(opened: Result<(ResponseHead, T), NoLink>, kind: impl FnOnce(T) -> Kind) -> Result<Reply, Problem> {
    match opened {
        Ok((head, then)) => Ok(Reply::Switch(head, kind(then))),
        Err(NoLink::Refused(refusal)) => Ok(Reply::Whole(answer::passed_on(*refusal))),
        Err(NoLink::Ours(problem)) => Err(problem),
        Err(NoLink::Lost) => Err(ErrorCode::UpstreamLost.into()),
    }
}

fn check_upgrade(gateway: &Gateway, method: &str, body: BodySize) -> Result<(), Problem> {
    if gateway.drain.has_begun() {
        return Err(ErrorCode::GatewayDraining.into());
    }
    if method != "GET" || !matches!(body, BodySize::None | BodySize::Exactly(0)) {
        return Err(Problem::new(ErrorCode::RequestInvalid, "An upgrade is asked for with GET and without a body."));
    }
    Ok(())
}

/// Expectations other than `100-continue` cannot be met by whoever does not know them (RFC 9110, section 10.1.1).
fn check_expectation(request: &Request) -> Result<(), Problem> {
    match request.headers.get_bytes("expect") {
        Some(what) if !what.eq_ignore_ascii_case(b"100-continue") => Err(ErrorCode::RequestExpectation.into()),
        Some(_) | None => Ok(()),
    }
}
