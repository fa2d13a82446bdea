//! h2load against a service inside an instance: a hundred streams on each of a few connections, with prior knowledge and
//! inside TLS, of which none may fail.

use std::path::Path;

use anyhow::{Context, Result, bail};
use landfast_scenarios::cell::Plan;
use landfast_scenarios::peer::free_address;
use landfast_scenarios::served::Served;
use tokio::process::Command;

/// Connections, and streams at once on each.
const CONNECTIONS: &str = "4";
const STREAMS: &str = "100";

/// Requests of each load: fifty for each stream.
const REQUESTS: u64 = 20_000;

/// The body of a POST: more than a frame holds.
const BODY: usize = 20_000;

/// How h2load is called, on the command line and in its packages.
const PROGRAM: &str = "h2load";

/// One load: its name, the service's path, and whether it is POSTed to.
const LOADS: [(&str, &str, bool); 2] = [("GET", "/hello", false), ("POST of 20 kB", "/count/load", true)];

/// Runs every load and says whether each was clean.
pub(crate) async fn run() -> Result<bool> {
    let tls = free_address()?;
    let folder = tempfile::tempdir()?;
    let [chain, key] = certificate(folder.path())?;
    let plan = Plan::default().bare().gateway("tls_listen", tls.to_string());
    let cell = plan.gateway("tls_certificates", chain).gateway("tls_key", key).start().await;
    let served = Served::start(&cell).await;
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; BODY])?;
    println!("\n{:<34} {:>8} {:>9} {:>7}", PROGRAM, "requests", "a second", "failed");
    let mut is_clean = true;
    for (scheme, address) in [("http", cell.gateway.address()), ("https", tls)] {
        for (name, path, is_post) in LOADS {
            let url = format!("{scheme}://{address}/i/{}/{}{path}", served.instance.id, served.place);
            let came = load(&url, &served.instance.token, is_post.then_some(body.as_path())).await?;
            println!("{:<34} {:>8} {:>9} {:>7}", format!("{scheme}, {name}"), REQUESTS, came.rate, REQUESTS - came.ok);
            is_clean &= came.ok == REQUESTS;
        }
    }
    let (posted, ran) = (2 * REQUESTS, served.count("load").await);
    println!("{posted} POSTs have run {ran} times");
    Ok(is_clean && ran == posted)
}

/// What came of a load.
struct Came {
    /// Requests that were answered with 2xx.
    ok: u64,
    /// As h2load says it, in requests a second.
    rate: String,
}

async fn load(url: &str, token: &str, body: Option<&Path>) -> Result<Came> {
    let mut command = Command::new(PROGRAM);
    command.args(["-n", &REQUESTS.to_string(), "-c", CONNECTIONS, "-m", STREAMS]);
    command.arg("-H").arg(format!("authorization: Bearer {token}"));
    if let Some(body) = body {
        command.arg("-d").arg(body);
    }
    let said = command.arg(url).kill_on_drop(true).output().await.context("h2load could not be started")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    read(&said).with_context(|| format!("h2load says:\n{said}"))
}

/// Reads what h2load has seen: `finished in 1s, 20000 req/s, …` and `status codes: 20000 2xx, …`.
fn read(said: &str) -> Result<Came> {
    let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
    let (Some(finished), Some(codes)) = (line("finished in "), line("status codes: ")) else {
        bail!("no summary");
    };
    let rate = finished.split(", ").nth(1).and_then(|rate| rate.strip_suffix(" req/s")).context("no rate")?;
    let ok = codes.split(' ').next().and_then(|count| count.parse().ok()).context("no count")?;
    if !said.contains("Application protocol: h2") {
        bail!("it did not speak HTTP/2");
    }
    Ok(Came { ok, rate: rate.to_owned() })
}

/// Writes a certificate and its key, and says where.
fn certificate(folder: &Path) -> Result<[String; 2]> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    Ok([write("chain.pem", made.cert.pem())?, write("key.pem", made.signing_key.serialize_pem())?])
}
