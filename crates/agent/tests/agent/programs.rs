//! The server that the tests run as a service: this test executable, started again.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use landfast_core::record::Service;

/// Says in the server's environment how long it waits before it listens.
pub(crate) const DELAY_MS: &str = "TEST_DELAY_MS";

/// A service that runs the server; where it listens is the caller's to say.
pub(crate) fn server() -> Service {
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let argv = [own.as_str(), "programs::program", "--exact", "--ignored", "--nocapture"];
    Service { argv: argv.map(str::to_owned).into(), ..Service::default() }
}

#[test]
#[ignore = "a program that other tests start"]
fn program() {
    let var = |name: &str| std::env::var(name).ok();
    let Some(name) = var("LANDFAST_SERVICE") else { return };
    println!("{name} begins");
    std::thread::sleep(Duration::from_millis(var(DELAY_MS).map_or(0, |delay| delay.parse().unwrap())));
    match (var("PORT"), var("LANDFAST_SOCKET")) {
        (Some(port), _) => {
            let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
            listener.incoming().for_each(|stream| talk(stream.unwrap()));
        }
        (None, Some(path)) => {
            let listener = UnixListener::bind(path).unwrap();
            listener.incoming().for_each(|stream| talk(stream.unwrap()));
        }
        (None, None) => panic!("nowhere to listen"),
    }
}

fn talk(stream: impl Read + Write + Send + 'static) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
            let answer = match line.trim_end() {
                "who" => {
                    let var = |name: &str| std::env::var(name).unwrap_or_default();
                    let names = ["LANDFAST_INSTANCE", "LANDFAST_SERVICE", "MINE", "FROM_INSTANCE"];
                    format!("{}\n", names.map(var).join(" "))
                }
                "die" => std::process::exit(3),
                "bye" => return,
                "GET /health HTTP/1.1" => {
                    let status = if std::path::Path::new("ready").exists() { 204 } else { 503 };
                    format!("HTTP/1.1 {status} x\r\n\r\n")
                }
                said => format!("{said}\n"),
            };
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
            line.clear();
        }
    });
}
