//! A tree as a tar stream, made while it is sent: of the tree only one directory per level is open, and of a file one
//! piece in memory.

use std::ffi::OsString;
use std::fs::{self, ReadDir};
use std::mem;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use landfast_core::{ErrorCode, Problem};
use tar::{EntryType, Header};

use crate::content::Content;
use crate::draft::is_temporary;
use crate::fault::{fault, refusal};
use crate::info::{FileKind, Info, stat};
use crate::{DEPTH_MAX, PIECE};

/// The record of an extended header in which an archive that breaks off says why. Readers that do not know it see an
/// archive without an end.
pub const PROBLEM_RECORD: &str = "LANDFAST.problem";

const BLOCK: usize = 512;

/// The most bytes of a name in a plain header.
const NAME_MAX: usize = 100;

/// A tree that is being packed: the directory itself as `./`, and what it holds below it. A file is an archive of one.
///
/// Links are packed, not followed. Sockets, named pipes and devices are left out, and so is what comes or goes meanwhile.
#[derive(Debug)]
pub struct Packer {
    root: PathBuf,
    stack: Vec<Level>,
    file: Option<Filling>,
    out: Vec<u8>,
    state: State,
}

#[derive(Debug)]
struct Level {
    /// Below the root.
    path: PathBuf,
    entries: ReadDir,
}

/// A file whose header is written.
#[derive(Debug)]
struct Filling {
    content: Content,
    size: u64,
}

#[derive(Debug)]
enum State {
    Going,
    Broken(Problem),
    Ended,
}

impl Packer {
    /// Begins with what is at a path; a link there is followed.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FileNotAFile`] for what is neither file nor directory, and what the kernel says no with.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let info = stat(path, true)?;
        let mut packer =
            Self { root: path.to_owned(), stack: Vec::new(), file: None, out: Vec::new(), state: State::Going };
        match info.kind {
            FileKind::Directory => {
                packer.write_header(Path::new("./"), &info, EntryType::Directory, 0, None);
                packer.descend(PathBuf::new())?;
            }
            FileKind::File | FileKind::Link | FileKind::Fifo | FileKind::Socket | FileKind::Device => {
                let content = Content::open(path)?;
                let name = path.file_name().map_or_else(|| OsString::from("file"), ToOwned::to_owned);
                packer.begin_file(Path::new(&name), content);
            }
        }
        Ok(packer)
    }

    /// The next bytes, about [`PIECE`] of them; nothing at the end.
    ///
    /// # Errors
    ///
    /// What cannot be read, after the archive has said so where it can.
    pub fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        match mem::replace(&mut self.state, State::Going) {
            State::Going => {}
            State::Broken(problem) => return Err(problem),
            State::Ended => {
                self.state = State::Ended;
                return Ok(None);
            }
        }
        while self.out.len() < PIECE {
            if self.file.is_some() {
                // In the middle of a file there is no place for a word.
                self.fill()?;
            } else if let Err(problem) = self.next_entry() {
                self.write_problem(&problem);
                self.state = State::Broken(problem);
                break;
            } else if matches!(self.state, State::Ended) {
                break;
            }
        }
        Ok(Some(mem::take(&mut self.out).into()))
    }

    /// Goes on with the file that is begun.
    fn fill(&mut self) -> Result<(), Problem> {
        let Some(filling) = &mut self.file else { return Ok(()) };
        match filling.content.piece()? {
            Some(piece) if filling.size > 0 => self.out.extend_from_slice(&piece),
            Some(_) | None => {
                let size = filling.size;
                self.file = None;
                self.pad(size);
            }
        }
        Ok(())
    }

    fn next_entry(&mut self) -> Result<(), Problem> {
        let Some(level) = self.stack.last_mut() else {
            self.out.resize(self.out.len() + 2 * BLOCK, 0);
            self.state = State::Ended;
            return Ok(());
        };
        let Some(entry) = level.entries.next() else {
            self.stack.pop();
            return Ok(());
        };
        let name = entry.map_err(|error| fault(error, &self.root.join(&level.path)))?.file_name();
        if is_temporary(&name) {
            return Ok(());
        }
        let path = level.path.join(&name);
        match self.add(path) {
            Err(problem) if problem.code == ErrorCode::FileNotFound => Ok(()),
            added => added,
        }
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Problem> {
        let full = self.root.join(&path);
        let info = stat(&full, false)?;
        match info.kind {
            FileKind::File => {
                let content = Content::open(&full)?;
                self.begin_file(&path, content);
            }
            FileKind::Directory => {
                self.write_header(&path.join(""), &info, EntryType::Directory, 0, None);
                self.descend(path)?;
            }
            FileKind::Link => {
                let target = fs::read_link(&full).map_err(|error| fault(error, &full))?;
                self.write_header(&path, &info, EntryType::Symlink, 0, Some(&target));
            }
            FileKind::Fifo | FileKind::Socket | FileKind::Device => {}
        }
        Ok(())
    }

    fn descend(&mut self, path: PathBuf) -> Result<(), Problem> {
        let full = self.root.join(&path);
        if self.stack.len() == DEPTH_MAX {
            let what = format!("it lies more than {DEPTH_MAX} directories deep");
            return Err(refusal(ErrorCode::FileArchive, &full, &what));
        }
        let entries = fs::read_dir(&full).map_err(|error| fault(error, &full))?;
        self.stack.push(Level { path, entries });
        Ok(())
    }

    fn begin_file(&mut self, path: &Path, content: Content) {
        // What the kernel makes up has no size, and no place in an archive.
        let size = content.left().unwrap_or(0);
        let info = content.info().clone();
        self.write_header(path, &info, EntryType::Regular, size, None);
        self.file = Some(Filling { content, size });
    }

    fn write_header(&mut self, path: &Path, info: &Info, kind: EntryType, size: u64, target: Option<&Path>) {
        let name = path.as_os_str().as_bytes();
        let target = target.map_or(&[][..], |target| target.as_os_str().as_bytes());
        for (long, kind) in [(name, EntryType::GNULongName), (target, EntryType::GNULongLink)] {
            if long.len() > NAME_MAX {
                self.write_extension(kind, b"././@LongLink", &[long, b"\0"].concat());
            }
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(info.mode);
        header.set_mtime(u64::try_from(info.modified.div_euclid(1000)).unwrap_or(0));
        // Owners are numbers of one machine, and mean nothing on another.
        header.set_uid(0);
        header.set_gid(0);
        let gnu = header.as_gnu_mut().expect("it was made as one");
        copy_name(&mut gnu.name, name);
        copy_name(&mut gnu.linkname, target);
        header.set_cksum();
        self.out.extend_from_slice(header.as_bytes());
    }

    fn write_extension(&mut self, kind: EntryType, name: &[u8], data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        copy_name(&mut header.as_gnu_mut().expect("it was made as one").name, name);
        header.set_cksum();
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(data);
        self.pad(data.len() as u64);
    }

    fn write_problem(&mut self, problem: &Problem) {
        let text = format!(" {PROBLEM_RECORD}={} {}\n", problem.code, problem.detail);
        // A record begins with its own length, the digits of which count.
        let len = (1..=5).map(|digits| text.len() + digits).find(|len| text.len() + len.to_string().len() == *len);
        let record = format!("{}{text}", len.unwrap_or(text.len()));
        self.write_extension(EntryType::XGlobalHeader, b"problem", record.as_bytes());
    }

    fn pad(&mut self, size: u64) {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 {
            self.out.resize(self.out.len() + BLOCK - over, 0);
        }
    }
}

/// As much of a name as there is place for; one that is longer stands in a header before.
fn copy_name(field: &mut [u8; NAME_MAX], name: &[u8]) {
    let len = name.len().min(NAME_MAX);
    field[..len].copy_from_slice(&name[..len]);
}
