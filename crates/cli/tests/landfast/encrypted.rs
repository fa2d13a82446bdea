//! A cell that is reached with TLS only as far as its commands know.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use nix::sys::signal::Signal;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use crate::cell::{Cell, finish, signal};
use crate::terminal::Terminal;

/// A cell whose gateway speaks TLS, and whose commands know nothing else of it.
fn start() -> (TempDir, Cell) {
    let dir = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (chain, key) = (write("chain.pem", cert.pem()), write("key.pem", signing_key.serialize_pem()));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cell = Cell::start_with(vec![
        ("LANDFAST_GATEWAY_TLS_LISTEN", address.to_string()),
        ("LANDFAST_GATEWAY_TLS_CERTIFICATES", chain.clone()),
        ("LANDFAST_GATEWAY_TLS_KEY", key),
        ("LANDFAST_URL", format!("https://{address}")),
        ("LANDFAST_CA", chain),
    ]);
    // In this order: the cell goes first, and its last commands still need the files.
    (dir, cell)
}

#[test]
fn a_terminal_and_a_command_pass_through_tls() {
    let (_files, cell) = start();
    let id = cell.create();
    let mut terminal = Terminal::run(cell.command(&["exec", "-it", &id, "--", "sh"]), 24, 80);
    terminal.type_in("echo $((6*7)) && exit 5\n");
    terminal.wait_for("42");
    assert_eq!(terminal.finish(), 5);

    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = cell.command(&["exec", "-i", &id, "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut input, said) = (child.stdin.take().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || input.write_all(&said).unwrap());
    let mut heard = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success() && heard == bytes, "{} bytes of {}", heard.len(), bytes.len());
}

#[test]
fn files_and_events_pass_through_tls() {
    let (files, cell) = start();
    let id = cell.create();
    let (here, back) = (files.path().join("here"), files.path().join("back"));
    std::fs::write(&here, vec![7; 2_000_000]).unwrap();
    let there = format!("{id}:there");
    for (from, to) in [(here.to_str().unwrap(), there.as_str()), (there.as_str(), back.to_str().unwrap())] {
        let ran = cell.run(&["cp", from, to]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert!(std::fs::read(back).unwrap() == vec![7; 2_000_000]);

    let mut child = cell.command(&["events", "-f", "--from", "start", &id]).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("instance_started")));
    signal(&child, Signal::SIGINT);
    finish(&mut child);
}

#[test]
fn a_forwarded_port_leads_through_tls() {
    let (_files, cell) = start();
    let id = cell.create();
    // A program that says what it hears: the shell's own, so that nothing has to be installed.
    let mut server = cell.command(&["exec", &id, "--", "perl", "-MIO::Socket", "-e", ECHO]).spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap();
    let mut child = cell.command(&["forward", &id, port.trim(), "0"]).spawn().unwrap();
    let address = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut heard = String::new();
    BufReader::new(&mut stream).read_line(&mut heard).unwrap();
    assert_eq!(heard, "hello\n");
    signal(&child, Signal::SIGINT);
    finish(&mut child);
    let _ = server.kill();
    let _ = server.wait();
}

#[test]
fn whom_nobody_vouches_for_is_not_spoken_to() {
    let (files, cell) = start();
    let CertifiedKey { cert, .. } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = files.path().join("other.pem");
    std::fs::write(&other, cert.pem()).unwrap();
    let ran = cell.run(&["--ca", other.to_str().unwrap(), "ls"]);
    assert_eq!(ran.code, 255, "{ran:?}");
    assert!(ran.err.contains("certificate is not believed") && ran.err.contains("--ca"), "{ran:?}");
    let plain = format!("https://{}", cell.address());
    let ran = cell.run(&["--url", &plain, "ls"]);
    assert!(ran.code == 255 && ran.err.contains("does not speak TLS"), "{ran:?}");
}

/// Listens on a port that is free, says which, and says back what it hears.
const ECHO: &str = "$|=1; $l=IO::Socket::INET->new(Listen=>9,LocalAddr=>'127.0.0.1'); print $l->sockport,\"\\n\"; \
                    while($c=$l->accept){ while(<$c>){ print $c $_; $c->flush } }";
