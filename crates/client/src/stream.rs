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
use tokio::time::{Instant, sleep, timeout};

use crate::content::Progress;
use crate::error::Error;
use crate::files::Files;
use crate::follow::PAUSES;
use crate::origin::{Call, Open, Upload};

/// How long nothing may move: longer than an instance is parked while it moves or wakes, several times.
const STALL: Duration = Duration::from_secs(120);

/// For how long a content that is cut is asked for again: as long as somebody who restarts a cell may take.
const PATIENCE: Duration = Duration::from_secs(600);

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

    /// So many of them are void.
    fn take_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
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

/// A content or a tree that comes from an instance. A content goes on where it is cut; a tree cannot.
#[derive(Debug)]
pub struct Incoming {
    /// `None` while it is cut.
    open: Option<Open>,
    count: Count,
    resume: Option<Box<Resume>>,
}

/// How a content goes on.
#[derive(Debug)]
struct Resume {
    files: Files,
    call: Call,
    progress: Progress,
    /// The offset of the next byte, as far as the reader was told.
    told: u64,
    /// Since when nothing came, and how long the next pause is.
    lost: Option<(Instant, Duration)>,
}

/// What comes next.
enum Step {
    Piece(Bytes),
    /// All that came is void: the file was replaced.
    Void,
    End,
}

impl Incoming {
    pub(crate) fn new(open: Open) -> Self {
        Self { open: Some(open), count: Count::default(), resume: None }
    }

    /// Lets it go on by this call where it is cut.
    #[must_use]
    pub(crate) fn resumed_by(self, files: Files, call: Call, progress: Progress) -> Self {
        let resume = Resume { files, call, told: progress.at(), progress, lost: None };
        Self { resume: Some(Box::new(resume)), ..self }
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
    /// [`Error::Broken`]: a content that is cut is not taken for a shorter one. `file.changed`, if it was replaced meanwhile.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.step(false).await? {
            Step::Piece(bytes) => Ok(Some(bytes)),
            Step::Void => unreachable!("nothing is begun anew unless that is asked for"),
            Step::End => Ok(None),
        }
    }

    /// All of it, up to `most` bytes. One that is replaced meanwhile is begun anew.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Invalid`] if there is more.
    pub async fn bytes(mut self, most: usize) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        loop {
            match self.step(true).await? {
                Step::Piece(bytes) => all.extend_from_slice(&bytes),
                Step::Void => all.clear(),
                Step::End => return Ok(all.into()),
            }
            if all.len() > most {
                return Err(Error::invalid(format!("The file has more than {most} bytes.")));
            }
        }
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

    /// Puts it in a file of this machine, whole or not at all. One that is replaced meanwhile is begun anew.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Local`].
    pub async fn save(mut self, path: &Path, mode: Option<u32>) -> Result<(), Error> {
        loop {
            let place = path.to_owned();
            let draft = blocking(move || Draft::at(&place, false)).await?;
            if let Some(draft) = self.fill(draft, Draft::write, true).await? {
                return blocking(move || draft.commit(&Commit { mode, ..Commit::default() }).map(drop)).await;
            }
        }
    }

    /// Unpacks it, if it is a tree, into a directory of this machine, which nothing in it leaves.
    ///
    /// # Errors
    ///
    /// As [`Incoming::next`]; [`Error::Local`], for example [`ErrorCode::FileEscape`].
    pub async fn unpack(mut self, path: PathBuf, links: Links) -> Result<Unpacked, Error> {
        let unpacker = blocking(move || Ok(Unpacker::new(Landing::open(&path, false, links)?))).await?;
        let filled = self.fill(unpacker, Unpacker::push, false).await?;
        let unpacker = filled.expect("nothing is begun anew unless that is asked for");
        blocking(move || unpacker.finish()).await
    }

    /// Pushes all of it into a sink; `None` if what is in there is void.
    async fn fill<S: Send + 'static>(
        &mut self,
        mut sink: S,
        push: fn(&mut S, &[u8]) -> Result<(), Problem>,
        may_restart: bool,
    ) -> Result<Option<S>, Error> {
        let mut gathered = Vec::with_capacity(PIECE);
        loop {
            let is_over = match self.step(may_restart).await? {
                Step::Piece(bytes) => {
                    gathered.extend_from_slice(&bytes);
                    false
                }
                Step::Void => return Ok(None),
                Step::End => true,
            };
            if is_over || gathered.len() >= PIECE {
                let piece = std::mem::take(&mut gathered);
                sink = blocking(move || push(&mut sink, &piece).map(|()| sink)).await?;
            }
            if is_over {
                return Ok(Some(sink));
            }
        }
    }

    /// What comes next, from as many connections as it takes. Cancel safe.
    async fn step(&mut self, may_restart: bool) -> Result<Step, Error> {
        loop {
            let failure = match (&mut self.open, &mut self.resume) {
                (Some(open), resume) => match piece(open).await {
                    Ok(None) => return Ok(Step::End),
                    Ok(Some(bytes)) => {
                        self.count.add(&bytes);
                        if let Some(resume) = resume {
                            resume.take(bytes.len());
                        }
                        return Ok(Step::Piece(bytes));
                    }
                    Err(failure) => failure,
                },
                (None, Some(resume)) => match resume.reopen(may_restart).await {
                    Ok(open) => {
                        self.open = open;
                        let void = resume.tell();
                        if void > 0 {
                            self.count.take_back(void);
                            return Ok(Step::Void);
                        }
                        continue;
                    }
                    Err(failure) => failure,
                },
                (None, None) => return Err(Error::Protocol("it has broken off".to_owned())),
            };
            self.open = None;
            match &mut self.resume {
                Some(resume) => resume.lose(failure, may_restart).await?,
                None => return Err(failure),
            }
        }
    }
}

impl Resume {
    fn take(&mut self, bytes: usize) {
        self.progress.take(bytes);
        (self.told, self.lost) = (self.progress.at(), None);
    }

    /// How many bytes are void of what the reader was given; from now on it knows.
    fn tell(&mut self) -> u64 {
        let at = self.progress.at();
        std::mem::replace(&mut self.told, at) - at
    }

    /// Asks for what is missing; an answer that cannot be gone on with is none.
    async fn reopen(&mut self, may_restart: bool) -> Result<Option<Open>, Error> {
        let call = Call { headers: self.progress.headers(), ..self.call.clone() };
        let open = self.files.opened_once(&call).await?;
        let is_wanted = self.progress.begin(open.status, &open.headers, may_restart)?;
        Ok(is_wanted.then_some(open))
    }

    /// Waits before it is asked for again, or says why it is not.
    async fn lose(&mut self, failure: Error, may_restart: bool) -> Result<(), Error> {
        let (since, pause) = self.lost.unwrap_or_else(|| (Instant::now(), PAUSES.0));
        if !may_pass(&failure) || since.elapsed() >= PATIENCE {
            return Err(failure);
        }
        tracing::debug!(%failure, ?pause, at = self.progress.at(), "a content is asked for again");
        self.progress.lose(failure, may_restart)?;
        self.lost = Some((since, (pause * 2).min(PAUSES.1)));
        sleep(pause).await;
        Ok(())
    }
}

/// Whether asking again may help: a proxy's word for a gateway that is away counts as well.
fn may_pass(failure: &Error) -> bool {
    failure.retryable() || (failure.code().is_none() && matches!(failure.status(), Some(502..=504)))
}

/// The next bytes of one answer.
async fn piece(open: &mut Open) -> Result<Option<Bytes>, Error> {
    let address = || open.door.origin.to_string();
    loop {
        let why = match timeout(STALL, open.body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_trailers) => continue,
            },
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => "nothing came for too long".to_owned(),
        };
        return Err(Error::Broken { address: address(), why });
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
