//! Where the events of instances are kept that are gone: an object store, which is a directory of the cell's data or S3.
//!
//! Nodes write there and API servers read. An object is a segment as an agent sealed it, and is never written again with
//! anything else, so whoever is not sure whether it is there writes it once more. The key is
//! `events/{instance}/{segment}`.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use futures_util::{TryStreamExt as _, future};
use landfast_core::event::{Page, Segment};
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::clock;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::time::timeout;

/// What all keys begin with: a bucket may hold other things too.
const EVENTS: &str = "events";

/// How long events are kept.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long one object may take. A segment has a megabyte or two, so this is a store that does not work.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a list of one instance's objects may take: thousands of names come with one answer.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// Segments that one instance can have in a page's view: at a megabyte each, 100 GB.
const LISTED_MAX: usize = 100_000;

/// Kept events.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
}

impl Archive {
    /// Opens the archive at a URL: `s3://bucket/prefix`, with the endpoint, the region and the credentials from the usual
    /// environment variables (`AWS_…`), or `file:///directory`; without one, the directory `archive` of the cell's data.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`], saying what is wrong with the URL or the variables.
    pub fn open(data: &FilePath, url: Option<&str>) -> Result<Self, Problem> {
        let invalid = |why: String| Problem::new(ErrorCode::ConfigInvalid, format!("archive: {why}."));
        let store = match url {
            None => directory(&data.join("archive")),
            Some(url) => match url.split_once("://") {
                Some(("file", path)) if path.starts_with('/') => directory(FilePath::new(path)),
                Some(("s3", place)) => s3(AmazonS3Builder::from_env(), place),
                _ => return Err(invalid(format!("{url:?} is neither s3://bucket/prefix nor file:///directory"))),
            },
        };
        Ok(Self { store: store.map_err(|error| invalid(error.to_string()))? })
    }

    /// Keeps a segment. Once more is no harm.
    ///
    /// # Errors
    ///
    /// The store's, or that it took too long.
    pub async fn put(&self, id: InstanceId, segment: Segment, text: Bytes) -> Result<(), Problem> {
        let key = key(id, segment);
        in_time(OBJECT_DEADLINE, self.store.put(&key, text.into())).await.map(drop)
    }

    /// Fills a page with an instance's events: a JSON array, and the offset of the next one. Of an instance that nobody knows
    /// it is empty.
    ///
    /// # Errors
    ///
    /// The store's, or that it took too long.
    pub async fn page(&self, id: InstanceId, mut page: Page) -> Result<(String, u64), Problem> {
        let chosen = page.choose(self.list(id).await?);
        for segment in chosen {
            if page.is_done() {
                break;
            }
            if let Some(text) = self.read(id, segment).await? {
                page.feed(segment.start, &text);
            }
        }
        Ok(page.finish())
    }

    /// Whether anything is kept of an instance.
    ///
    /// # Errors
    ///
    /// The store's, or that it took too long.
    pub async fn knows(&self, id: InstanceId) -> Result<bool, Problem> {
        let prefix = prefix(id);
        let mut listed = self.store.list(Some(&prefix));
        in_time(OBJECT_DEADLINE, listed.try_next()).await.map(|first| first.is_some())
    }

    /// Removes what is older than [`RETENTION`], and says how many objects that were.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn sweep(&self) -> Result<usize, Problem> {
        let now = i64::try_from(clock::unix_millis()).unwrap_or(i64::MAX);
        let before = now - RETENTION.as_millis() as i64;
        let listed = self.store.list(Some(&Path::from(EVENTS)));
        let old = listed
            .try_filter(move |object| future::ready(object.last_modified.timestamp_millis() < before))
            .map_ok(|object| object.location);
        let removed = self.store.delete_stream(old.boxed());
        // Another API server may have removed one just before.
        let removed = removed.filter(|result| future::ready(!matches!(result, Err(Error::NotFound { .. }))));
        removed.try_fold(0, |count, _| future::ready(Ok(count + 1))).await.map_err(|error| failed(&error))
    }

    async fn list(&self, id: InstanceId) -> Result<Vec<(Segment, Option<u64>)>, Problem> {
        let prefix = prefix(id);
        let listed: BoxStream<'_, _> = self.store.list(Some(&prefix));
        let segments = listed.take(LISTED_MAX).try_filter_map(|object| future::ready(Ok(segment(&object))));
        in_time(LIST_DEADLINE, segments.try_collect()).await
    }

    async fn read(&self, id: InstanceId, segment: Segment) -> Result<Option<String>, Problem> {
        let read = async { self.store.get(&key(id, segment)).await?.bytes().await };
        match timeout(OBJECT_DEADLINE, read).await {
            Ok(Ok(bytes)) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            // Its time has come in between.
            Ok(Err(Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(late()),
        }
    }
}

fn directory(path: &FilePath) -> Result<Arc<dyn ObjectStore>, Error> {
    let create = |error| Error::Generic { store: "directory", source: Box::<std::io::Error>::new(error) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(create)?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(path)?.with_automatic_cleanup(true)))
}

fn s3(builder: AmazonS3Builder, place: &str) -> Result<Arc<dyn ObjectStore>, Error> {
    // Whoever was first has chosen the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    // What is tried again is tried again by us, later and with everybody else's.
    let retry = RetryConfig {
        max_retries: 2,
        retry_timeout: OBJECT_DEADLINE,
        backoff: BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() },
    };
    let store = builder.with_bucket_name(bucket).with_retry(retry).build()?;
    Ok(Arc::new(PrefixStore::new(store, Path::from(prefix))))
}

fn prefix(id: InstanceId) -> Path {
    Path::from_iter([EVENTS, &id.to_string()])
}

fn key(id: InstanceId, segment: Segment) -> Path {
    prefix(id).join(segment.to_string().as_str())
}

fn segment(object: &ObjectMeta) -> Option<(Segment, Option<u64>)> {
    let segment = object.location.filename()?.parse().ok()?;
    Some((segment, u64::try_from(object.last_modified.timestamp_micros()).ok()))
}

async fn in_time<T>(deadline: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Problem> {
    timeout(deadline, work).await.map_err(|_| late())?.map_err(|error| failed(&error))
}

/// The caller's text has no addresses; the log has everything.
fn failed(error: &Error) -> Problem {
    tracing::warn!(%error, "the archive does not work");
    ErrorCode::ArchiveUnavailable.into()
}

fn late() -> Problem {
    Problem::new(ErrorCode::ArchiveUnavailable, "The archive of events did not answer in time.")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use http_body_util::{BodyExt as _, Full};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use landfast_core::event::{Event, Query};

    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn query(text: &str) -> Query {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Query::read(pairs.map(|(name, value)| (name.into(), value.into())), clock::unix_micros()).unwrap()
    }

    fn text(seqs: std::ops::Range<u64>) -> Bytes {
        let line = |seq| {
            let event = Event::new("x", seq).to_bounded_json();
            format!("{{\"seq\":{seq},\"event\":{event}}}\n")
        };
        seqs.map(line).collect::<String>().into()
    }

    #[tokio::test]
    async fn what_was_put_comes_back_in_order_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path(), None).unwrap();
        let (id, other) = (InstanceId::new(1, 1), InstanceId::new(2, 2));
        for first in [21, 1, 11, 1] {
            archive.put(id, Segment { start: START, first }, text(first..first + 10)).await.unwrap();
        }
        archive.put(other, Segment { start: START, first: 1 }, text(1..3)).await.unwrap();
        let (mut seqs, mut offset) = (Vec::new(), 0);
        loop {
            let (page, next) = archive.page(id, Page::new(query(&format!("limit=7&offset={offset}")))).await.unwrap();
            let items: Vec<serde_json::Value> = serde_json::from_str(&page).unwrap();
            seqs.extend(items.iter().map(|item| item["seq"].as_u64().unwrap()));
            offset = next;
            if next == 0 {
                break;
            }
        }
        assert!(seqs.iter().copied().eq(1..=30), "{seqs:?}");
        assert!(archive.knows(other).await.unwrap() && !archive.knows(InstanceId::new(3, 3)).await.unwrap());
        assert_eq!(archive.page(InstanceId::new(3, 3), Page::new(query(""))).await.unwrap(), ("[]".to_owned(), 0));
    }

    #[tokio::test]
    async fn what_is_older_than_thirty_days_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/kept", dir.path().display());
        let archive = Archive::open(dir.path(), Some(&url)).unwrap();
        let (id, old, new) =
            (InstanceId::new(1, 1), Segment { start: START, first: 1 }, Segment { start: START, first: 5 });
        for segment in [old, new] {
            archive.put(id, segment, text(1..2)).await.unwrap();
        }
        let path = dir.path().join("kept/events").join(id.to_string()).join(old.to_string());
        let then = std::time::SystemTime::now() - RETENTION - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        assert_eq!(archive.sweep().await.unwrap(), 1);
        assert_eq!(archive.list(id).await.unwrap().iter().map(|(segment, _)| *segment).collect::<Vec<_>>(), [new]);
        assert_eq!(archive.sweep().await.unwrap(), 0);
    }

    /// What S3 does with the four requests that we make, as far as our client can see it: this is a script, not S3, and shows
    /// only that what we send is signed, where it goes, and that its answers are understood.
    async fn scripted_s3(listener: tokio::net::TcpListener, objects: Arc<Mutex<BTreeMap<String, Bytes>>>) {
        while let Ok((stream, _)) = listener.accept().await {
            let objects = objects.clone();
            let service = service_fn(move |request| answer(objects.clone(), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(
        objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
        request: http::Request<hyper::body::Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, http::Error> {
        let signed = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
        assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=me/"), "{signed}");
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut objects = objects.lock().unwrap();
        let path = head.uri.path().to_owned();
        let answer = http::Response::builder().header("etag", "\"e\"");
        match head.method.as_str() {
            "PUT" => drop(objects.insert(path, body)),
            "GET" if path == "/bucket" => {
                let listed: String = objects
                    .iter()
                    .map(|(path, body)| {
                        let key = path.strip_prefix("/bucket/").unwrap();
                        format!(
                            "<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified>\
                         <ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                            body.len()
                        )
                    })
                    .collect();
                let xml = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>");
                return answer.body(Full::new(xml.into()));
            }
            "GET" => {
                let Some(body) = objects.get(&path) else { return answer.status(404).body(Full::default()) };
                let answer = answer.header("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT");
                return answer.body(Full::new(body.clone()));
            }
            // Several objects are removed by one request that names them.
            "POST" => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let keys = objects.keys().map(|path| path.strip_prefix("/bucket/").unwrap().to_owned());
                let named: Vec<String> = keys.filter(|key| text.contains(key)).collect();
                named.iter().for_each(|key| drop(objects.remove(&format!("/bucket/{key}"))));
                let deleted: String = named.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
                return answer.body(Full::new(format!("<DeleteResult>{deleted}</DeleteResult>").into()));
            }
            other => panic!("nobody sends {other}"),
        }
        answer.body(Full::default())
    }

    #[tokio::test]
    async fn an_archive_in_s3_is_written_listed_read_and_swept_below_its_prefix() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let archive = archive_in_s3(listener.local_addr().unwrap());
        let objects = Arc::new(Mutex::new(BTreeMap::new()));
        let server = tokio::spawn(scripted_s3(listener, objects.clone()));
        let (id, segment) = (InstanceId::new(1, 1), Segment { start: START, first: 1 });
        archive.put(id, segment, text(1..3)).await.unwrap();
        assert_eq!(
            *objects.lock().unwrap().keys().next().unwrap(),
            format!("/bucket/some/prefix/events/{id}/{segment}")
        );
        let (page, next) = archive.page(id, Page::new(query(""))).await.unwrap();
        assert_eq!((serde_json::from_str::<Vec<serde_json::Value>>(&page).unwrap().len(), next), (2, 0));
        assert_eq!(archive.sweep().await.unwrap(), 1, "it says that it is of 2020");
        assert!(objects.lock().unwrap().is_empty());
        server.abort();
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_reached_is_told_as_such() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let archive = archive_in_s3(listener.local_addr().unwrap());
        drop(listener);
        let segment = Segment { start: START, first: 1 };
        let refused = archive.put(InstanceId::new(1, 1), segment, text(1..3)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ArchiveUnavailable);
    }

    fn archive_in_s3(address: std::net::SocketAddr) -> Archive {
        let builder = AmazonS3Builder::new().with_endpoint(format!("http://{address}")).with_allow_http(true);
        let builder = builder.with_region("here").with_access_key_id("me").with_secret_access_key("secret");
        Archive { store: s3(builder, "bucket/some/prefix").unwrap() }
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for url in ["bucket", "http://x", "file://relative", "s3:/x"] {
            let problem = Archive::open(dir.path(), Some(url)).unwrap_err();
            assert!(problem.code == ErrorCode::ConfigInvalid && problem.detail.contains(url), "{problem}");
        }
    }
}
