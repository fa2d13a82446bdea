//! A tar stream that is unpacked while it comes, in pieces of any size. Nothing in it is believed: sizes and checksums are
//! checked, and where an entry lands is for [`Landing`] to say.

use std::mem;
use std::path::Path;

use landfast_core::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};
use tar::{EntryType, Header, PaxExtensions};

use crate::draft::{Commit, Draft};
use crate::fault::name;
use crate::landing::Landing;
use crate::pack::PROBLEM_RECORD;

const BLOCK: usize = 512;

/// The most bytes of an extended header: a name and a link's target of the length that Linux allows, several times.
const EXTENSION_MAX: u64 = 64 * 1024;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// Directories, without the one in which the tree landed.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes in files.
    pub bytes: u64,
}

/// A tree that is being unpacked. What has landed when it breaks off stays; the file that was under way does not.
#[derive(Debug)]
pub struct Unpacker {
    landing: Landing,
    state: State,
    /// What extended headers say of the next entry.
    said: Said,
    done: Unpacked,
}

#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    Extension { kind: EntryType, data: Vec<u8>, left: u64, padding: u64 },
    File { draft: Draft, commit: Commit, left: u64, padding: u64 },
    Skipping(u64),
    Ended,
}

/// What extended headers say of the next entry.
#[derive(Debug, Default)]
struct Said {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Unpacker {
    /// Begins to unpack.
    pub fn new(landing: Landing) -> Self {
        Self { landing, state: State::Header(Vec::new()), said: Said::default(), done: Unpacked::default() }
    }

    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileEscape`], [`ErrorCode::FileArchive`], and what the kernel says no with, all naming the entry.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Problem> {
        while !bytes.is_empty() && !matches!(self.state, State::Ended) {
            let taken = self.take(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Ends: says what was unpacked.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileArchive`] if the archive is not whole.
    pub fn finish(self) -> Result<Unpacked, Problem> {
        match self.state {
            State::Ended => {
                self.landing.finish()?;
                Ok(self.done)
            }
            State::Header(_) | State::Extension { .. } | State::File { .. } | State::Skipping(_) => {
                Err(Problem::new(ErrorCode::FileArchive, "The archive breaks off: it has no end mark."))
            }
        }
    }

    /// Takes some bytes, and says how many.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        let within = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        match &mut self.state {
            State::Header(header) => {
                let n = (BLOCK - header.len()).min(bytes.len());
                header.extend_from_slice(&bytes[..n]);
                if header.len() == BLOCK {
                    let header = mem::take(header);
                    self.state = self.begin(&header)?;
                }
                Ok(n)
            }
            State::Extension { data, left, .. } => {
                let n = within(*left);
                data.extend_from_slice(&bytes[..n]);
                *left -= n as u64;
                if *left == 0 {
                    self.end_extension()?;
                }
                Ok(n)
            }
            State::File { draft, left, .. } => {
                let n = within(*left);
                draft.write(&bytes[..n])?;
                *left -= n as u64;
                if *left == 0 {
                    self.end_file()?;
                }
                Ok(n)
            }
            State::Skipping(left) => {
                let n = within(*left);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Header(Vec::new());
                }
                Ok(n)
            }
            State::Ended => Ok(bytes.len()),
        }
    }

    /// Reads a header and does what it says.
    fn begin(&mut self, block: &[u8]) -> Result<State, Problem> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(State::Ended);
        }
        let header = Header::from_byte_slice(block);
        let bad = |what: &str| archive(&header.path_bytes(), what);
        if !is_sound(header, block) {
            return Err(bad("its header's checksum is wrong; this is no tar archive, or a damaged one"));
        }
        let size = header.entry_size().map_err(|_| bad("its size cannot be read"))?;
        let kind = header.entry_type();
        match kind {
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                if size > EXTENSION_MAX || size == 0 {
                    return Err(bad("its extended header has an impossible size"));
                }
                Ok(State::Extension { kind, data: Vec::new(), left: size, padding: padding(size) })
            }
            _ => self.begin_entry(header, kind, size),
        }
    }

    fn begin_entry(&mut self, header: &Header, kind: EntryType, size: u64) -> Result<State, Problem> {
        let said = mem::take(&mut self.said);
        let path = said.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let size = said.size.unwrap_or(size);
        let mode = header.mode().unwrap_or(0o644);
        if size > u64::MAX / 2 {
            return Err(archive(&path, "it has an impossible size"));
        }
        // Before there was a mark for directories, their names ended in a slash.
        let is_directory = kind.is_dir() || kind.is_file() && path.ends_with(b"/");
        if is_directory {
            self.landing.directory(&path, mode)?;
            self.done.directories += u64::from(path.iter().any(|byte| !b"./".contains(byte)));
            return Ok(skip(size + padding(size)));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => self.begin_file(header, &path, mode, size),
            EntryType::Symlink => {
                let target = said.target.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = target.ok_or_else(|| archive(&path, "it is a symbolic link to nothing"))?;
                self.landing.link(&path, &target)?;
                self.done.links += 1;
                Ok(skip(size + padding(size)))
            }
            EntryType::Link => Err(escape(&path, "it is a hard link")),
            EntryType::Char | EntryType::Block => Err(escape(&path, "it is a device")),
            EntryType::Fifo => Err(escape(&path, "it is a named pipe")),
            _ => Err(archive(&path, "it is of a kind that is not taken here")),
        }
    }

    fn begin_file(&mut self, header: &Header, path: &[u8], mode: u32, size: u64) -> Result<State, Problem> {
        let draft = self.landing.file(path)?;
        let modified = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok());
        let commit = Commit { mode: Some(mode & 0o777), modified, ..Commit::default() };
        self.done.files += 1;
        self.done.bytes += size;
        if size == 0 {
            draft.commit(&commit)?;
            return Ok(State::Header(Vec::new()));
        }
        Ok(State::File { draft, commit, left: size, padding: padding(size) })
    }

    fn end_file(&mut self) -> Result<(), Problem> {
        if let State::File { draft, commit, padding, .. } = mem::replace(&mut self.state, State::Ended) {
            draft.commit(&commit)?;
            self.state = skip(padding);
        }
        Ok(())
    }

    fn end_extension(&mut self) -> Result<(), Problem> {
        let State::Extension { kind, data, padding, .. } = mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        self.state = skip(padding);
        let text = || data.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.said.path = Some(text()),
            EntryType::GNULongLink => self.said.target = Some(text()),
            _ => self.hear(&data, kind == EntryType::XGlobalHeader)?,
        }
        Ok(())
    }

    /// Reads the records of an extended header. Of those for the whole archive only a problem is heeded.
    fn hear(&mut self, data: &[u8], is_global: bool) -> Result<(), Problem> {
        let unreadable = || Problem::new(ErrorCode::FileArchive, "An extended header of the archive cannot be read.");
        for record in PaxExtensions::new(data) {
            let record = record.map_err(|_| unreadable())?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" if !is_global => self.said.path = Some(value.to_vec()),
                b"linkpath" if !is_global => self.said.target = Some(value.to_vec()),
                b"size" if !is_global => {
                    let size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                    self.said.size = Some(size.ok_or_else(unreadable)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Problem::new(
                        ErrorCode::FileArchive,
                        "The archive holds files with holes; pack it without.",
                    ));
                }
                key if is_global && key == PROBLEM_RECORD.as_bytes() => heed(value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Fails as the archive says that its packing did.
fn heed(value: &[u8]) -> Result<(), Problem> {
    let text = String::from_utf8_lossy(value);
    let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
    match ErrorCode::parse(code).filter(|code| code.as_str().starts_with("file.")) {
        Some(code) => Err(Problem::new(code, detail.trim_end())),
        None => Ok(()),
    }
}

/// Whether a header's sum is the one that it says, with its own field taken for blanks.
fn is_sound(header: &Header, block: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let byte = |(at, &byte): (usize, &u8)| u32::from(if FIELD.contains(&at) { b' ' } else { byte });
    let sum: u32 = block.iter().enumerate().map(byte).sum();
    header.cksum().is_ok_and(|said| said == sum)
}

fn skip(bytes: u64) -> State {
    if bytes == 0 { State::Header(Vec::new()) } else { State::Skipping(bytes) }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn archive(path: &[u8], what: &str) -> Problem {
    Problem::new(ErrorCode::FileArchive, format!("{}: {what}.", shown(path)))
}

fn escape(path: &[u8], what: &str) -> Problem {
    Problem::new(ErrorCode::FileEscape, format!("{}: {what}.", shown(path)))
}

fn shown(path: &[u8]) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    name(Path::new(std::ffi::OsStr::from_bytes(path)))
}
