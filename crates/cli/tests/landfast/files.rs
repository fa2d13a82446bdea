//! Files that are copied between this machine and instances.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cell::{Cell, PATIENCE, Ran};

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A tree with links, modes and an empty directory.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("sub/empty")).unwrap();
    fs::write(dir.join("sub/script"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(dir.join("sub/script"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(dir.join("data"), vec![7; 1_000_000]).unwrap();
    symlink("sub/script", dir.join("link")).unwrap();
}

fn same(one: &str, other: &str) {
    let diff = Command::new("diff").args(["-r", "--no-dereference", one, other]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    for name in ["sub/script", "data", "sub/empty"] {
        assert_eq!(mode(&format!("{one}/{name}")), mode(&format!("{other}/{name}")), "{name}");
    }
}

#[test]
fn a_tree_goes_there_and_comes_back_and_goes_on_to_another_instance() {
    let (cell, dir) = (Cell::start(), tempfile::tempdir().unwrap());
    let (one, two) = (cell.create(), cell.create());
    tree(&dir.path().join("src"));
    let here = |name: &str| path(dir.path(), name);
    let cp = |arguments: &[&str]| {
        let ran = cell.run(&[&["cp"], arguments].concat());
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        assert_eq!(ran.err, "", "nobody sees a line about progress");
        ran
    };
    let told = cp(&["-r", "-o", "json", &here("src"), &format!("{one}:tree")]).json();
    assert_eq!((&told["files"], &told["directories"], &told["links"]), (&2.into(), &2.into(), &1.into()));
    let ran = cell.run(&["exec", &one, "--", "tree/link"]);
    assert_eq!((ran.code, &*ran.out), (0, "ran\n"), "{ran:?}");
    cp(&["-r", &format!("{one}:tree"), &here("back")]);
    same(&here("src"), &here("back"));
    // What is there takes it in under its name, and /. stands for the content.
    cp(&["-r", &here("src"), &format!("{one}:tree")]);
    cp(&["-r", &format!("{one}:tree/src/."), &format!("{two}:copy")]);
    cp(&["-r", &format!("{two}:copy"), &here("back")]);
    same(&here("src"), &here("back/copy"));
    let tar = cell.command(&["cp", "-r", &format!("{two}:copy"), "-"]).output().unwrap();
    fs::write(here("copy.tar"), tar.stdout).unwrap();
    let listed = Command::new("tar").args(["-tf", &here("copy.tar")]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("sub/empty/"));
}

#[test]
fn files_are_copied_whole_with_their_modes_and_through_pipes() {
    let (cell, dir) = (Cell::start(), tempfile::tempdir().unwrap());
    let id = cell.create();
    let here = |name: &str| path(dir.path(), name);
    fs::write(here("script"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(here("script"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(cell.run(&["cp", &here("script"), &format!("{id}:")]).code, 0);
    assert_eq!(cell.run(&["exec", &id, "--", "./script"]).out, "ran\n");
    assert_eq!(cell.run(&["cp", &format!("{id}:script"), &here("renamed")]).code, 0);
    assert_eq!(
        (mode(&here("renamed")), fs::read(here("renamed")).unwrap()),
        (0o755, fs::read(here("script")).unwrap())
    );
    let mut child = cell.command(&["cp", "-", &format!("{id}:typed")]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(cell.run(&["cp", &format!("{id}:typed"), "-"]).out, "from a pipe");
}

#[test]
fn a_large_file_is_the_same_there_and_back() {
    let (cell, dir) = (Cell::start(), tempfile::tempdir().unwrap());
    let id = cell.create();
    let here = |name: &str| path(dir.path(), name);
    let bytes: Vec<u8> = (0..50_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(here("large"), &bytes).unwrap();
    let run = |arguments: &[&str]| Ran::of(&mut cell.command(arguments), PATIENCE * 4);
    let there = run(&["cp", &here("large"), &format!("{id}:large")]);
    assert_eq!(there.code, 0, "{there:?}");
    let back = run(&["cp", &format!("{id}:large"), &here("back")]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(fs::read(here("back")).unwrap() == bytes, "200 MB are the same");
}

#[test]
fn what_cannot_be_copied_is_said_with_what_to_do() {
    let (cell, dir) = (Cell::start(), tempfile::tempdir().unwrap());
    let id = cell.create();
    let here = |name: &str| path(dir.path(), name);
    tree(&dir.path().join("src"));
    cell.run(&["exec", &id, "--", "sh", "-c", "mkdir out; ln -s /etc out/way; echo old > file; echo new > plain"]);
    for (arguments, code, says) in [
        (vec![here("src"), format!("{id}:x")], 2, "-r"),
        (vec![format!("{id}:out"), here("x")], 2, "-r"),
        (vec![here("none"), format!("{id}:x")], 1, "no such file"),
        (vec![format!("{id}:none"), here("x")], 1, "file.not_found"),
        (vec![here("src/data"), format!("{id}:no/where")], 1, "file.not_found"),
        (vec![format!("{id}:plain"), here("no/where")], 1, "no such file"),
        (vec!["-r".into(), format!("{id}:out"), here("x")], 1, "--outside-links"),
        (vec!["-r".into(), here("src"), format!("{id}:file")], 1, "file.exists"),
        (vec![here("src/data"), here("x")], 2, "ID:PATH"),
        (vec!["nobody:x".into(), here("x")], 2, "./nobody:x"),
    ] {
        let arguments: Vec<&str> = ["cp"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let ran = cell.run(&arguments);
        assert!(ran.code == code && ran.err.to_lowercase().contains(&says.to_lowercase()), "{arguments:?}: {ran:?}");
    }
    assert_eq!(cell.run(&["exec", &id, "--", "cat", "file"]).out, "old\n");
    let ran = cell.run(&["cp", "-r", "--outside-links", &format!("{id}:out"), &here("links")]);
    assert_eq!((ran.code, fs::read_link(here("links/way")).unwrap().to_str()), (0, Some("/etc")), "{ran:?}");
}
