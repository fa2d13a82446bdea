//! A file's content, or a part of it, piece by piece.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use landfast_core::{ErrorCode, Problem};
use rustix::fs::OFlags;

use crate::PIECE;
use crate::fault::{fault, refusal};
use crate::info::{FileKind, Info};

/// After how long another change of a file has another time: the kernel takes it from its tick, which is 10 ms at most.
const TICK: Duration = Duration::from_millis(50);

/// The same where a file system counts whole seconds, or every other one.
const COARSE_TICK: Duration = Duration::from_secs(3);

/// A file that is being read.
#[derive(Debug)]
pub struct Content {
    file: File,
    path: PathBuf,
    info: Info,
    /// Bytes that are still to come. What the kernel makes up as it is read (`/proc`) has no size; that is read to its
    /// end.
    left: Option<u64>,
    /// Whether the etag is this version's alone.
    is_settled: bool,
}

/// Which part of a content is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// From one byte to another, both included.
    Part(u64, u64),
    /// A part that there is not.
    Outside,
}

impl Range {
    /// Reads a `Range` header for a content of this size. What is no single range of bytes asks for everything.
    pub fn read(header: &str, size: u64) -> Self {
        let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return Self::Whole;
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let (first, last) = (first.trim(), last.trim());
        if size == 0 || !is_number(first) || !is_number(last) {
            return Self::Whole;
        }
        // What is too large for a number is beyond every end.
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        match (first, last) {
            ("", "") => Self::Whole,
            ("", last) => match number(last) {
                0 => Self::Outside,
                n => Self::Part(size.saturating_sub(n), size - 1),
            },
            (first, _) if number(first) >= size => Self::Outside,
            (first, "") => Self::Part(number(first), size - 1),
            (first, last) if number(last) < number(first) => Self::Whole,
            (first, last) => Self::Part(number(first), number(last).min(size - 1)),
        }
    }
}

impl Content {
    /// Opens a file; what is no file is not opened at all, so that nobody waits for a pipe.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileNotAFile`], and what the kernel says no with.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let refuse = |error: io::Error| fault(error, path);
        let check = |metadata: &fs::Metadata| match FileKind::of(metadata.file_type()) {
            FileKind::File => Ok(()),
            kind => Err(refusal(ErrorCode::FileNotAFile, path, &format!("it is {}", kind.words()))),
        };
        check(&fs::metadata(path).map_err(refuse)?)?;
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(refuse)?;
        let metadata = file.metadata().map_err(refuse)?;
        check(&metadata)?;
        let info = Info::new(path, &metadata);
        let left = (info.size > 0).then_some(info.size);
        let is_settled = left.is_some() && is_settled(&metadata, SystemTime::now());
        Ok(Self { file, path: path.to_owned(), info, left, is_settled })
    }

    /// What it was when it was opened.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The etag under which it is given away. It is a weak one (`W/…`) if another version may have it too: of a file that
    /// was changed just now, and may be again before the clock of changes has moved on, and of what the kernel makes up.
    pub fn etag(&self) -> String {
        let etag = &self.info.etag;
        if self.is_settled { etag.clone() } else { format!("W/{etag}") }
    }

    /// How many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Goes on with this part only.
    ///
    /// # Errors
    ///
    /// What the kernel says no with.
    pub fn select(&mut self, first: u64, last: u64) -> Result<(), Problem> {
        self.file.seek(SeekFrom::Start(first)).map_err(|error| fault(error, &self.path))?;
        self.left = Some(last + 1 - first);
        Ok(())
    }

    /// The next bytes, at most [`PIECE`] of them; nothing at the end.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileChanged`] if the file has become shorter than it was said to be, and what the kernel says no
    /// with.
    pub fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        let most = self.left.map_or(PIECE, |left| usize::try_from(left).unwrap_or(PIECE).min(PIECE));
        if most == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(most);
        let read = (&mut self.file).take(most as u64).read_to_end(&mut bytes);
        read.map_err(|error| fault(error, &self.path))?;
        match &mut self.left {
            Some(_) if bytes.is_empty() => {
                return Err(refusal(ErrorCode::FileChanged, &self.path, &"it became shorter while it was read"));
            }
            Some(left) => *left -= bytes.len() as u64,
            None if bytes.is_empty() => return Ok(None),
            None => {}
        }
        Ok(Some(bytes.into()))
    }
}

/// Whether a further change of a file cannot have the time of its last one.
fn is_settled(metadata: &fs::Metadata, now: SystemTime) -> bool {
    let tick = if metadata.ctime_nsec() == 0 { COARSE_TICK } else { TICK };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(metadata.ctime()), u32::try_from(metadata.ctime_nsec())) else {
        return false;
    };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    now.duration_since(changed).is_ok_and(|age| age > tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_strong_once_no_further_change_can_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(metadata.ctime().try_into().unwrap(), metadata.ctime_nsec().try_into().unwrap());
        assert!(!is_settled(&metadata, changed + Duration::from_millis(10)));
        assert!(!is_settled(&metadata, changed - Duration::from_secs(1)), "a clock that was set back");
        assert!(is_settled(&metadata, changed + COARSE_TICK * 2));
        let content = Content { is_settled: true, ..Content::open(&path).unwrap() };
        assert_eq!(content.etag(), content.info().etag);
        let fresh = Content { is_settled: false, ..content };
        assert_eq!(fresh.etag(), format!("W/{}", fresh.info().etag));
        // It has no size and another content each time, and no time of its own.
        assert!(Content::open(Path::new("/proc/uptime")).unwrap().etag().starts_with("W/"));
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (header, size, range) in [
            ("bytes=0-0", 10, Range::Part(0, 0)),
            ("bytes=2-5", 10, Range::Part(2, 5)),
            ("bytes=2-", 10, Range::Part(2, 9)),
            ("bytes=-3", 10, Range::Part(7, 9)),
            ("bytes=-30", 10, Range::Part(0, 9)),
            ("bytes=5-99", 10, Range::Part(5, 9)),
            ("bytes=5-99999999999999999999999", 10, Range::Part(5, 9)),
            ("bytes=10-", 10, Range::Outside),
            ("bytes=99999999999999999999999-", 10, Range::Outside),
            ("bytes=-0", 10, Range::Outside),
            ("bytes=5-2", 10, Range::Whole),
            ("bytes=0-1,3-4", 10, Range::Whole),
            ("bytes=-", 10, Range::Whole),
            ("bytes=a-b", 10, Range::Whole),
            ("lines=1-2", 10, Range::Whole),
            ("bytes=0-5", 0, Range::Whole),
        ] {
            assert_eq!(Range::read(header, size), range, "{header} of {size}");
        }
    }

    #[test]
    fn a_file_that_the_kernel_makes_up_is_read_to_its_end() {
        let mut content = Content::open(Path::new("/proc/self/status")).unwrap();
        assert_eq!(content.left(), None);
        assert!(content.piece().unwrap().unwrap().starts_with(b"Name:"));
        assert_eq!(content.piece().unwrap(), None);
    }

    #[test]
    fn a_file_that_becomes_shorter_is_no_shorter_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![b'x'; PIECE + 10]).unwrap();
        let mut content = Content::open(&path).unwrap();
        assert_eq!(content.piece().unwrap().unwrap().len(), PIECE);
        fs::write(&path, "").unwrap();
        assert_eq!(content.piece().unwrap_err().code, ErrorCode::FileChanged);
    }
}
