//! Trees that are packed and unpacked, and archives that nobody should send.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use landfast_core::{ErrorCode, Problem};
use landfast_files::{FileKind, Landing, Links, Packer, Unpacked, Unpacker, stat};
use tar::{EntryType, Header};
use tempfile::TempDir;

fn pack(root: &Path) -> Vec<u8> {
    let (mut packer, mut archive) = (Packer::open(root).unwrap(), Vec::new());
    while let Some(piece) = packer.piece().unwrap() {
        archive.extend_from_slice(&piece);
    }
    archive
}

fn unpack_with(archive: &[u8], target: &Path, links: Links, piece: usize) -> Result<Unpacked, Problem> {
    let mut unpacker = Unpacker::new(Landing::open(target, true, links)?);
    for bytes in archive.chunks(piece) {
        unpacker.push(bytes)?;
    }
    unpacker.finish()
}

fn unpack(archive: &[u8], target: &Path) -> Result<Unpacked, Problem> {
    unpack_with(archive, target, Links::Inside, 4096)
}

/// Everything below a directory: path, kind, mode, size, target and time, in order.
fn describe(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
        for entry in fs::read_dir(root.join(path)).unwrap() {
            let path = path.join(entry.unwrap().file_name());
            let info = stat(&root.join(&path), false).unwrap();
            let is_directory = info.kind == FileKind::Directory;
            let size = if is_directory { 0 } else { info.size };
            let time = if info.kind == FileKind::File { info.modified / 1000 } else { 0 };
            lines.push(format!("{path:?} {:?} {:o} {size} {:?} {time}", info.kind, info.mode, info.target));
            if is_directory {
                walk(root, &path, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, Path::new(""), &mut lines);
    lines.sort();
    lines
}

/// A tree with everything that is carried.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("a/b/empty")).unwrap();
    fs::write(path("a/one"), "1").unwrap();
    fs::write(path("a/none"), "").unwrap();
    fs::write(path("a/b/big"), (0..700_001_u32).map(|n| n as u8).collect::<Vec<_>>()).unwrap();
    fs::write(path("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(path("script"), fs::Permissions::from_mode(0o751)).unwrap();
    let long = "long-".repeat(30);
    fs::create_dir(path(&long)).unwrap();
    fs::write(path(&format!("{long}/{long}")), "deep").unwrap();
    symlink(format!("../{long}/{long}"), path("a/to-long")).unwrap();
    symlink("one", path("a/to-one")).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"not-utf8-\xff")), "bytes").unwrap();
    fs::create_dir(path("closed")).unwrap();
    fs::write(path("closed/inside"), "kept").unwrap();
    fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    dir
}

/// One entry.
fn entry(name: &[u8], kind: EntryType, target: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, b"", b"evil")
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Symlink, target.as_bytes(), b"")
}

fn of_kind(kind: EntryType) -> Vec<u8> {
    entry(b"odd", kind, b"one", b"")
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let source = tree();
    let archive = pack(source.path());
    for piece in [1 << 20, 4096, 513, 7] {
        let target = tempfile::tempdir().unwrap();
        let done = unpack_with(&archive, target.path(), Links::Inside, piece).unwrap();
        assert_eq!(describe(source.path()), describe(target.path()), "in pieces of {piece}");
        assert_eq!((done.files, done.directories, done.links), (7, 5, 2));
        // Onto itself, as whoever repeats an upload does.
        fs::set_permissions(target.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
        unpack_with(&archive, target.path(), Links::Inside, piece).unwrap();
    }
}

#[test]
fn archives_are_those_of_tar_both_ways() {
    let source = tree();
    let target = tempfile::tempdir().unwrap();
    let packed = target.path().join("packed.tar");
    fs::write(&packed, pack(source.path())).unwrap();
    fs::create_dir(target.path().join("theirs")).unwrap();
    let run = |arguments: &[&OsStr]| assert!(Command::new("tar").args(arguments).status().unwrap().success());
    let (theirs, ours) = (target.path().join("theirs"), target.path().join("ours"));
    run(&["-xpf".as_ref(), packed.as_os_str(), "-C".as_ref(), theirs.as_os_str()]);
    assert_eq!(describe(source.path()), describe(&theirs));
    for format in ["gnu", "pax"] {
        let other = target.path().join(format);
        let format = format!("--format={format}");
        run(&[
            format.as_ref(),
            "-cf".as_ref(),
            other.as_os_str(),
            "-C".as_ref(),
            source.path().as_os_str(),
            ".".as_ref(),
        ]);
        let ours = ours.join(other.file_name().unwrap());
        unpack(&fs::read(&other).unwrap(), &ours).unwrap();
        assert_eq!(describe(source.path()), describe(&ours), "{format}");
    }
}

#[test]
fn nothing_lands_outside() {
    let long = |name: &str| {
        let head = entry(b"././@LongLink", EntryType::GNULongName, b"", format!("{name}\0").as_bytes());
        [head, file("harmless")].concat()
    };
    let pax = |record: &str| [entry(b"x", EntryType::XHeader, b"", record.as_bytes()), file("harmless")].concat();
    let escape = ErrorCode::FileEscape;
    for (entries, code, named) in [
        (vec![file("../out")], escape, "../out"),
        (vec![file("in/../../out")], escape, "in/../../out"),
        (vec![file("in/..")], escape, "in/.."),
        (vec![file("/out")], escape, "/out"),
        (vec![entry(b"../out/", EntryType::Directory, b"", b"")], escape, "../out"),
        (vec![link("way", "/")], escape, "way"),
        (vec![link("way", "..")], escape, "way"),
        (vec![link("in/way", "../..")], escape, "in/way"),
        (vec![link("in/way", "down/../../..")], escape, "in/way"),
        (vec![link("way", "in"), file("way/x")], escape, "way/x"),
        (vec![link("there/x", "y")], escape, "there/x"),
        (vec![file("there/x")], escape, "there/x"),
        (vec![entry(b"there/x/", EntryType::Directory, b"", b"")], escape, "there/x"),
        (vec![of_kind(EntryType::Link)], escape, "odd"),
        (vec![of_kind(EntryType::Char)], escape, "odd"),
        (vec![of_kind(EntryType::Block)], escape, "odd"),
        (vec![of_kind(EntryType::Fifo)], escape, "odd"),
        (vec![of_kind(EntryType::GNUSparse)], ErrorCode::FileArchive, "odd"),
        (vec![long("../out")], escape, "../out"),
        (vec![pax("15 path=../out\n")], escape, "../out"),
        (vec![pax("17 path=/tmp/out\n")], escape, "/tmp/out"),
        (vec![pax("99 path=x\n")], ErrorCode::FileArchive, ""),
        (vec![pax("11 size=-1\n")], ErrorCode::FileArchive, ""),
        (vec![pax("29 size=18446744073709551615\n")], ErrorCode::FileArchive, "harmless"),
        (vec![pax("22 GNU.sparse.major=1\n")], ErrorCode::FileArchive, ""),
        (vec![pax("11 path=a\0\n")], ErrorCode::FileArchive, "a"),
        (vec![file(&"d/".repeat(49)), long(&"d/".repeat(300))], ErrorCode::FileArchive, "d/d"),
        (vec![vec![b'x'; 512]], ErrorCode::FileArchive, "xxx"),
        (vec![file("folder")], ErrorCode::FileExists, "folder"),
        (vec![link("folder", "x")], ErrorCode::FileExists, "folder"),
    ] {
        let outer = tempfile::tempdir().unwrap();
        let (target, outside) = (outer.path().join("target"), outer.path().join("outside"));
        fs::create_dir_all(target.join("folder")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, target.join("there")).unwrap();
        let refused = unpack(&archive(&entries), &target).expect_err(named);
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.detail.contains(named), "{refused} should name {named}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{named}");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2, "{named}");
    }
}

#[test]
fn a_link_that_leads_out_is_made_where_that_is_wanted_and_still_not_followed() {
    let (target, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = outside.path().to_str().unwrap();
    let bytes = archive(&[link("way", out)]);
    unpack_with(&bytes, target.path(), Links::Any, 512).unwrap();
    assert_eq!(fs::read_link(target.path().join("way")).unwrap(), outside.path());
    let refused = unpack_with(&archive(&[file("way/x")]), target.path(), Links::Any, 512).unwrap_err();
    assert_eq!(refused.code, ErrorCode::FileEscape);
    // A file takes the place of the link, not of what it leads to.
    unpack_with(&archive(&[file("way")]), target.path(), Links::Any, 512).unwrap();
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    assert_eq!(fs::read(target.path().join("way")).unwrap(), b"evil");
}

#[test]
fn an_archive_that_breaks_off_leaves_the_old_file_and_says_so() {
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("one"), "old").unwrap();
    let whole =
        archive(&[entry(b"zero", EntryType::Regular, b"", b"0"), entry(b"one", EntryType::Regular, b"", &[7; 5000])]);
    for len in [1024 + 512 + 100, 1024 + 512 + 5120] {
        let refused = unpack(&whole[..len], target.path()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::FileArchive);
    }
    assert_eq!(unpack(&[], target.path()).unwrap_err().code, ErrorCode::FileArchive);
    let names: Vec<_> = fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn why_packing_broke_off_is_told_in_the_archive() {
    let source = tempfile::tempdir().unwrap();
    let deep = (0..130).fold(source.path().to_owned(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let (mut packer, mut archive) = (Packer::open(source.path()).unwrap(), Vec::new());
    let problem = loop {
        match packer.piece() {
            Ok(piece) => archive.extend_from_slice(&piece.expect("it is not packed as if all were well")),
            Err(problem) => break problem,
        }
    };
    let target = tempfile::tempdir().unwrap();
    let heard = unpack(&archive, target.path()).unwrap_err();
    assert_eq!((problem.code, &*heard.detail), (ErrorCode::FileArchive, &*problem.detail));
}

#[test]
fn a_single_file_is_an_archive_of_one_and_pipes_are_left_out() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("one"), "1").unwrap();
    let pipe = source.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let target = tempfile::tempdir().unwrap();
    assert_eq!(unpack(&pack(&source.path().join("one")), target.path()).unwrap().files, 1);
    assert_eq!(fs::read(target.path().join("one")).unwrap(), b"1");
    let all = unpack(&pack(source.path()), target.path()).unwrap();
    assert_eq!((all.files, all.links, all.directories), (1, 0, 0));
    assert_eq!(Packer::open(&pipe).unwrap_err().code, ErrorCode::FileNotAFile);
}
