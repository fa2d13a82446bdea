//! Traces: one span for each request or session that was let in, as part of its caller's trace (W3C Trace Context), sent
//! to a collector over OTLP.
//!
//! A trace is decided on where it begins. If the caller's says that it is not recorded, ours is not either, and what it
//! said passes on as it was.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::Headers;
use landfast_net::http::call;
use landfast_net::socket::Socket;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt, Tracer as _, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long a collector may take for a batch; spans that come meanwhile wait, up to the exporter's bound of 2048.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long the last batch may take when the gateway stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Makes spans and sends them.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Traces {
    /// Sends to the collector at this base URL; of the traces that begin here, one in so many.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`].
    pub(crate) fn to(endpoint: &str, one_in: u32) -> Result<Self, Problem> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { runtime: Handle::current() })
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_WITHIN)
            .build()
            .map_err(|error| Problem::new(ErrorCode::ConfigInvalid, format!("otlp_endpoint: {error}.")))?;
        let root = Sampler::TraceIdRatioBased(1.0 / f64::from(one_in));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_resource(Resource::builder().with_service_name("landfast-gateway").build())
            .build();
        let tracer = provider.tracer("landfast-gateway");
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// Begins the span of a request and puts it into the headers as the parent of what follows; `None` if its trace is
    /// not recorded.
    pub(crate) fn begin(&self, name: &'static str, headers: &mut Headers) -> Option<Box<Span>> {
        let parent = self.propagator.extract_with_context(&Context::new(), &Said(headers));
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(SystemTime::now());
        let span = self.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            return None;
        }
        let ours = Context::new().with_remote_span_context(span.span_context().clone());
        self.propagator.inject_context(&ours, &mut Saying(headers));
        Some(Box::new(span))
    }

    /// Sends what is left. Takes two seconds at most, on a thread that may wait.
    pub(crate) async fn flush(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_WITHIN)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

/// Ends a span with what is known by now.
pub(crate) fn end(mut span: Box<Span>, status: Option<u16>, cause: Option<ErrorCode>, facts: Vec<KeyValue>) {
    span.set_attributes(facts);
    if let Some(status) = status {
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    if let Some(cause) = cause {
        span.set_attribute(KeyValue::new("error.type", cause.as_str()));
    }
    if status.is_none_or(|status| status >= 500) {
        span.set_status(opentelemetry::trace::Status::error(cause.map_or("", ErrorCode::as_str)));
    }
    span.end();
}

/// What a request says of its trace.
struct Said<'a>(&'a Headers);

impl Extractor for Said<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

/// What the next hop is told of it.
struct Saying<'a>(&'a mut Headers);

impl Injector for Saying<'_> {
    fn set(&mut self, key: &str, value: String) {
        // A trace without state of its vendors has no line for it.
        if value.is_empty() { self.0.remove(key) } else { self.0.set(key, value) }
    }
}

/// The collector, over HTTP/1.1 and a connection for each batch. The exporter's thread has no runtime of its own.
#[derive(Debug)]
struct Collector {
    runtime: Handle,
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sending<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.runtime.spawn(send(request));
        Box::pin(async move { sent.await? })
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().cloned().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = timeout(EXPORT_WITHIN, TcpStream::connect(address)).await??;
    parts.headers.insert("host", HeaderValue::from_str(authority.as_str())?);
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    Ok(call(Socket::tcp(stream), Request::from_parts(parts, Full::new(body)), EXPORT_WITHIN).await?)
}
