//! Contents and trees on their way between this machine and an instance, of which only a piece is in memory.
//!
//! What is here of the disk is read and written in threads of its own, because it blocks.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use landfast_core::{ErrorCode, Problem};
use landfast_files::{Commit, Content, Draft, Landing, Links, PIECE, Packer, Unpacked, Unpacker};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::error::Error;
use crate::origin::{Open, Upload};

/// How long nothing may move: longer than an instance is parked while it moves or wakes, several times.
const STALL: Duration = Duration::from_secs(120);

/// How many bytes have passed; copies count together.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    /// How many it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: &Bytes) {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Something that is sent to an instance.
pub struct Source {
    body: Upload,
    count: Count,
    /// Why it broke off.
    fault: Fault,
}

type Fault = Arc<Mutex<Option<Error>>>;

/// What can say its next piece, and then is to be asked again.
trait Pieces: Send + Sized + 'static {
    fn following(self) -> impl Future<Output = Result<Option<(Bytes, Self)>, Error>> + Send;
}

impl Source {
    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
        Self { body, count: Count::default(), fault: Fault::default() }
    }

    /// What a reader gives, to its end.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::pieces(Reader(reader))
    }

    /// A file of this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Local`].
    pub async fn file(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        Ok(Self::pieces(blocking(move || Content::open(&path)).await?))
    }

    /// A tree of this machine, as a tar stream.
    ///
    /// # Errors
    ///
    /// [`Error::Local`].
    pub async fn tree(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        Ok(Self::pieces(blocking(move || Packer::open(&path)).await?))
    }

    /// What comes from an instance.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::pieces(incoming)
    }

    /// Counts what is sent.
    #[must_use]
    pub fn counted(mut self, count: &Count) -> Self {
        self.count = count.clone();
        self
    }

    fn pieces(pieces: impl Pieces) -> Self {
        let fault = Fault::default();
        let told = fault.clone();
        let frames = stream::unfold(Some(pieces), move |pieces| {
            let told = told.clone();
            async move {
                match pieces?.following().await {
                    Ok(None) => None,
                    Ok(Some((bytes, pieces))) => Some((Ok(Frame::data(bytes)), Some(pieces))),
                    Err(error) => {
                        *told.lock().expect("no holder panics") = Some(error);
                        Some((Err(io::Error::other("what is sent broke off")), None))
                    }
                }
            }
        });
        Self { body: StreamBody::new(frames).boxed_unsync(), count: Count::default(), fault }
    }

    /// Sends it by `send`, and tells its own failure rather than what became of that.
    pub(crate) async fn send<T>(self, send: impl AsyncFnOnce(Upload, Count) -> Result<T, Error>) -> Result<T, Error> {
        let Self { body, count, fault } = self;
        let counted = count.clone();
        let body = body.map_frame(move |frame| {
            frame.map_data(|data| {
                counted.add(&data);
                data
            })
        });
        let sent = send(body.boxed_unsync(), count).await;
        sent.map_err(|error| fault.lock().expect("no holder panics").take().unwrap_or(error))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Waits until nothing has moved for too long.
pub(crate) async fn stalled(count: Count) {
    let mut seen = count.get();
    loop {
        sleep(STALL).await;
        if std::mem::replace(&mut seen, count.get()) == seen {
            return;
        }
    }
}

struct Reader<R>(R);

impl<R: AsyncRead + Send + Unpin + 'static> Pieces for Reader<R> {
    async fn following(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let mut bytes = Vec::with_capacity(PIECE);
        match self.0.read_buf(&mut bytes).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((bytes.into(), self))),
            Err(error) => Err(local(format!("What is sent cannot be read: {error}."))),
        }
    }
}

impl Pieces for Content {
    async fn following(self) -> Result<Option<(Bytes, Self)>, Error> {
        step(self, Self::piece).await
    }
}

impl Pieces for Packer {
    async fn following(self) -> Result<Option<(Bytes, Self)>, Error> {
        step(self, Self::piece).await
    }
}

impl Pieces for Incoming {
    async fn following(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        Ok(Self::next(&mut self).await?.map(|bytes| (bytes, self)))
    }
}

async fn step<S: Send + 'static>(
    mut subject: S,
    piece: fn(&mut S) -> Result<Option<Bytes>, Problem>,
) -> Result<Option<(Bytes, S)>, Error> {
    blocking(move || Ok(piece(&mut subject)?.map(|bytes| (bytes, subject)))).await
}

/// A content or a tree that comes from an instance.
#[derive(Debug)]
pub struct Incoming {
    open: Open,
    count: Count,
}

impl Incoming {
    pub(crate) fn new(open: Open) -> Self {
        Self { open, count: Count::default() }
    }

    /// Counts what comes.
    #[must_use]
    pub fn counted(mut self, count: &Count) -> Self {
        self.count = count.clone();
        self
    }

    /// The next bytes; nothing at the end.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`]: a content that is cut is not taken for a shorter one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let address = || self.open.door.origin.to_string();
        let broken = |why: &dyn fmt::Display| Error::Broken { address: address(), why: why.to_string() };
        loop {
            let frame =
                timeout(STALL, self.open.body.frame()).await.map_err(|_| broken(&"nothing came for too long"))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.count.add(&bytes);
                    return Ok(Some(bytes));
                }
            }
        }
    }

    /// All of it, up to `most` bytes.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Protocol`] if there is more.
    pub async fn bytes(mut self, most: usize) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
            if all.len() > most {
                return Err(Error::invalid(format!("The file has more than {most} bytes.")));
            }
        }
        Ok(all.into())
    }

    /// Writes it on.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Local`] if it cannot be written.
    pub async fn write_to(mut self, mut writer: impl AsyncWrite + Unpin) -> Result<(), Error> {
        let cannot = |error: io::Error| local(format!("What came cannot be written: {error}."));
        while let Some(bytes) = self.next().await? {
            writer.write_all(&bytes).await.map_err(cannot)?;
        }
        writer.flush().await.map_err(cannot)
    }

    /// Puts it in a file of this machine, whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Local`].
    pub async fn save(self, path: &Path, mode: Option<u32>) -> Result<(), Error> {
        let path = path.to_owned();
        let draft = blocking(move || Draft::at(&path, false)).await?;
        let draft = self.fill(draft, Draft::write).await?;
        blocking(move || draft.commit(&Commit { mode, ..Commit::default() }).map(drop)).await
    }

    /// Unpacks it, if it is a tree, into a directory of this machine, which nothing in it leaves.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Local`], for example [`ErrorCode::FileEscape`].
    pub async fn unpack(self, path: PathBuf, links: Links) -> Result<Unpacked, Error> {
        let unpacker = blocking(move || Ok(Unpacker::new(Landing::open(&path, false, links)?))).await?;
        let unpacker = self.fill(unpacker, Unpacker::push).await?;
        blocking(move || unpacker.finish()).await
    }

    async fn fill<S: Send + 'static>(
        mut self,
        mut sink: S,
        push: fn(&mut S, &[u8]) -> Result<(), Problem>,
    ) -> Result<S, Error> {
        let mut gathered = Vec::with_capacity(PIECE);
        loop {
            let next = self.next().await?;
            let is_over = next.is_none();
            gathered.extend_from_slice(&next.unwrap_or_default());
            if is_over || gathered.len() >= PIECE {
                let piece = std::mem::take(&mut gathered);
                sink = blocking(move || push(&mut sink, &piece).map(|()| sink)).await?;
            }
            if is_over {
                return Ok(sink);
            }
        }
    }
}

/// Does something that blocks, elsewhere.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::new(ErrorCode::Internal, error.to_string()))).map_err(Error::Local)
}

fn local(detail: String) -> Error {
    Error::Local(Problem::new(ErrorCode::FileFailed, detail))
}
