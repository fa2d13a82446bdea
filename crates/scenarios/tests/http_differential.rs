//! Every request of the corpus through the gateway, HAProxy and nginx to one upstream that writes down what it saw.
//!
//! What the gateway passes on means what a strict reader reads in the client's bytes; what means nothing is refused, typed,
//! the connection closed, and the upstream sees nothing of it. HAProxy and nginx show what others make of the same bytes:
//! `docs/http.md` has the table, and this test keeps it true.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::corpus::{Case, Part, Reading, Way, cases};
use landfast_scenarios::external;
use landfast_scenarios::meaning::{Meaning, shown};
use landfast_scenarios::peer::{Configuration, Peer};
use landfast_scenarios::plain::PATIENCE;
use landfast_scenarios::recorder::{Recorder, Seen};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a peer is listened to where it may never answer: it waits for more of a request that it reads otherwise.
const PEER_PATIENCE: Duration = Duration::from_millis(500);

/// The variable that has the table written instead of compared.
const WRITE: &str = "LANDFAST_WRITE_DOCS";

/// Between these lines of the document stands the table.
const MARKS: (&str, &str) = ("<!-- the table begins -->\n", "<!-- the table ends -->\n");

const HAPROXY: &str = "global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend in
    bind @LISTEN@
    default_backend up
backend up
    server up0 @UPSTREAM@
";

const NGINX: &str = "worker_processes 1;
pid @DIR@/nginx.pid;
error_log @DIR@/nginx-error.log crit;
daemon off;
events {}
http {
    access_log off;
    client_body_temp_path @DIR@/nginx-body;
    proxy_temp_path @DIR@/nginx-proxy;
    fastcgi_temp_path @DIR@/nginx-fastcgi;
    uwsgi_temp_path @DIR@/nginx-uwsgi;
    scgi_temp_path @DIR@/nginx-scgi;
    upstream up {
        server @UPSTREAM@ max_fails=0;
        keepalive 16;
    }
    server {
        listen @LISTEN@;
        location / {
            proxy_pass http://up;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Host $host;
        }
    }
}
";

/// A proxy, and the way through it.
struct Proxy {
    address: SocketAddr,
    prefix: String,
    pass: String,
    patience: Duration,
}

/// What the client heard.
#[derive(Debug, Default)]
struct Heard {
    /// The final answers: their status, and the error code that is ours.
    answers: Vec<(u16, Option<String>)>,
    /// Whether the connection then ended.
    ended: bool,
    /// What was no answer.
    strange: Vec<u8>,
}

/// What came of a case.
#[derive(Debug)]
struct Outcome {
    heard: Heard,
    seen: Vec<Seen>,
}

#[tokio::test]
async fn what_is_passed_on_is_what_a_strict_reader_reads() {
    let recorder = Recorder::start().await;
    let (_cell, gateway) = gateway(&recorder).await;
    let mut wrong = Vec::new();
    for case in cases() {
        let outcome = gateway.carries(&case, &recorder).await;
        if let Err(why) = judge(&case, &outcome) {
            wrong.push(format!("{}: {why}\n    {outcome:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n  {}", wrong.len(), wrong.join("\n  "));
}

#[tokio::test]
async fn the_document_tells_where_others_are_less_strict() {
    let recorder = Recorder::start().await;
    let dir = tempfile::tempdir().unwrap();
    let configuration = |template| Configuration { template, upstream: recorder.address(), dir: dir.path() };
    let haproxy = Peer::haproxy(configuration(HAPROXY)).unwrap();
    let nginx = Peer::nginx(configuration(NGINX)).unwrap();
    let peers = [Proxy::plain(haproxy.address()), Proxy::plain(nginx.address())];
    let mut table =
        String::from("| what is sent | HAProxy | nginx | what could be read otherwise |\n|---|---|---|---|\n");
    for case in cases() {
        let Reading::Wrong { why, .. } = &case.reading else { continue };
        let mut outcomes = Vec::new();
        for peer in &peers {
            outcomes.push(Verdict::of(&case, &peer.carries(&case, &recorder).await));
        }
        if outcomes.iter().any(|verdict| !matches!(verdict, Verdict::Refuses(_))) {
            table += &format!("| {} | {} | {} | {why} |\n", case.name, outcomes[0], outcomes[1]);
        }
    }
    keep(&table);
}

impl Proxy {
    fn plain(address: SocketAddr) -> Self {
        Self { address, prefix: String::new(), pass: String::new(), patience: PEER_PATIENCE }
    }

    /// Sends a case and says what both ends of the proxy were told.
    async fn carries(&self, case: &Case, recorder: &Recorder) -> Outcome {
        let host = self.address.to_string();
        let way = Way { prefix: &self.prefix, host: &host, pass: &self.pass };
        let heard = self.hears(&case.bytes(way), case.ends, |heard| is_all(case, heard)).await;
        // What the proxy still had of the case has arrived before what it is sent afterwards.
        let after =
            format!("GET {}/after HTTP/1.1\r\nHost: {host}\r\n{}Connection: close\r\n\r\n", self.prefix, self.pass);
        let barrier = self.hears(after.as_bytes(), false, |_| false).await;
        assert_eq!(barrier.answers.first().map(|answer| answer.0), Some(200), "after {}: {barrier:?}", case.name);
        let mut seen = recorder.take();
        seen.retain(|seen| !matches!(seen, Seen::Whole(Meaning { target, .. }) if target == b"/after"));
        let without_hops = |seen| match seen {
            Seen::Whole(meaning) => Seen::Whole(meaning.without_hops()),
            other => other,
        };
        Outcome { heard, seen: seen.into_iter().map(without_hops).collect() }
    }

    /// Sends bytes and reads until what was heard is all, or the end.
    async fn hears(&self, bytes: &[u8], ends: bool, is_all: impl Fn(&Heard) -> bool) -> Heard {
        let socket = TcpStream::connect(self.address).await.expect("the proxy listens");
        let (mut reader, mut writer) = socket.into_split();
        let mut heard = Heard::default();
        let saying = async {
            // Whoever refuses a head need not read the rest of it.
            let _ = writer.write_all(bytes).await;
            if ends {
                let _ = writer.shutdown().await;
            }
        };
        let hearing = async {
            loop {
                heard.take_answers();
                if is_all(&heard) {
                    return;
                }
                if !matches!(reader.read_buf(&mut heard.strange).await, Ok(1..)) {
                    heard.ended = true;
                    return;
                }
            }
        };
        // Whoever waits for more has been silent; what was heard until then is what there is.
        let _ = timeout(self.patience, async { tokio::join!(saying, hearing) }).await;
        drop(writer);
        heard
    }
}

impl Heard {
    /// Takes the whole answers from what has come.
    fn take_answers(&mut self) {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            let Ok(httparse::Status::Complete(len)) = response.parse(&self.strange) else { return };
            let header = |name: &str| {
                let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.map(|header| String::from_utf8_lossy(header.value).into_owned())
            };
            let status = response.code.unwrap_or(0);
            let body: usize = header("content-length").map_or(0, |length| length.parse().expect("a length"));
            let code = header("landfast-error");
            if self.strange.len() < len + body {
                return;
            }
            self.strange.drain(..len + body);
            if status >= 200 {
                self.answers.push((status, code));
            }
        }
    }
}

/// Whether nothing more than this needs to come, not even the connection's end.
fn is_all(case: &Case, heard: &Heard) -> bool {
    let may_go_on = match &case.reading {
        Reading::Whole(_) => true,
        Reading::Doubtful(_) => heard.answers.iter().all(|(status, _)| *status == 200),
        Reading::Wrong { may_go_on, .. } => *may_go_on,
        Reading::Unfinished => false,
    };
    may_go_on && heard.answers.len() >= case.answers()
}

async fn gateway(recorder: &Recorder) -> (Cell, Proxy) {
    let cell = Plan::default().bare().gateway("workers", "1").start().await;
    let instance = external::create(cell.dir(), &[("web", recorder.address())]).await;
    let token = cell.operator.token(&instance.to_string(), &json!({})).await;
    let proxy = Proxy {
        address: cell.gateway.address(),
        prefix: format!("/i/{instance}/web"),
        pass: format!("Authorization: Bearer {}\r\n", token.text),
        patience: PATIENCE,
    };
    (cell, proxy)
}

/// Holds what the gateway did against the reading.
fn judge(case: &Case, Outcome { heard, seen }: &Outcome) -> Result<(), String> {
    let passed = |meanings: &[Meaning]| {
        let expected: Vec<Seen> = meanings.iter().cloned().map(Seen::Whole).collect();
        let answered = heard.answers.iter().map(|answer| answer.0).eq(meanings.iter().map(|_| 200));
        if *seen == expected && answered { Ok(()) } else { Err(format!("to be passed on as {meanings:?}")) }
    };
    match &case.reading {
        Reading::Whole(meanings) => passed(meanings),
        Reading::Doubtful(meaning) => match heard.answers.first() {
            Some((200, _)) => passed(std::slice::from_ref(meaning)),
            _ => refused(heard, seen, &[], Part::Body, &[400, 505]).and_then(|()| ended(heard)),
        },
        Reading::Wrong { before, part, statuses, may_go_on, .. } => {
            let typed = refused(heard, seen, before, *part, statuses);
            if *may_go_on { typed } else { typed.and_then(|()| ended(heard)) }
        }
        Reading::Unfinished => {
            let answered = heard.answers.iter().any(|(status, _)| *status < 400);
            let whole = seen.iter().any(|seen| !matches!(seen, Seen::Cut(_)));
            if answered || whole || !heard.ended { Err("no end of a request is made up".to_owned()) } else { Ok(()) }
        }
    }
}

fn refused(heard: &Heard, seen: &[Seen], before: &[Meaning], part: Part, statuses: &[u16]) -> Result<(), String> {
    let (first, last) = heard.answers.split_at(before.len().min(heard.answers.len()));
    let [(status, Some(code))] = last else { return Err("to be refused once, typed".to_owned()) };
    if !statuses.contains(status) || first.iter().any(|answer| answer.0 != 200) {
        return Err(format!("to be refused with one of {statuses:?}, not {status} {code}"));
    }
    let (whole, rest) = seen.split_at(before.len().min(seen.len()));
    let expected: Vec<Seen> = before.iter().cloned().map(Seen::Whole).collect();
    let nothing_more = match part {
        Part::Head => rest.is_empty(),
        Part::Body => rest.iter().all(|seen| matches!(seen, Seen::Cut(_))),
    };
    if whole == expected && nothing_more { Ok(()) } else { Err("something of it was passed on".to_owned()) }
}

fn ended(heard: &Heard) -> Result<(), String> {
    let at_once = heard.ended && heard.strange.is_empty();
    if at_once { Ok(()) } else { Err("the connection must end after the refusal".to_owned()) }
}

/// What a peer made of what means nothing.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Refuses(u16),
    /// It passed on so many whole requests.
    PassesOn(usize),
    /// It passed on what the upstream could not read.
    PassesOnStrange,
    /// It neither answered nor passed anything on.
    Waits,
}

impl Verdict {
    fn of(case: &Case, Outcome { heard, seen }: &Outcome) -> Self {
        let whole = seen.iter().filter(|seen| matches!(seen, Seen::Whole(_))).count();
        let before = case.answers() - 1;
        if seen.iter().any(|seen| matches!(seen, Seen::Strange(_))) {
            return Self::PassesOnStrange;
        }
        if whole > before {
            return Self::PassesOn(whole - before);
        }
        heard.answers.get(before).map_or(Self::Waits, |(status, _)| Self::Refuses(*status))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuses(status) => write!(f, "{status}"),
            Self::PassesOn(1) => f.write_str("passes it on"),
            Self::PassesOn(count) => write!(f, "passes on {count} requests"),
            Self::PassesOnStrange => f.write_str("passes on what can be read in two ways"),
            Self::Waits => f.write_str("no answer, or its own page"),
        }
    }
}

/// Compares the table with the document's, or writes it there.
fn keep(table: &str) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS.0).unwrap();
    let (present, after) = rest.split_once(MARKS.1).unwrap();
    let stand = format!("Seen with {} and {}.\n\n", version("haproxy", "-v"), version("nginx", "-v"));
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path, format!("{before}{}{stand}{table}{}{after}", MARKS.0, MARKS.1)).unwrap();
        return;
    }
    if !present.starts_with(&stand) {
        // Another release may be as strict as we are; the document speaks of those it names.
        println!("not compared: the document was made beside others than these: {stand}");
        return;
    }
    assert_eq!(present, format!("{stand}{table}"), "docs/http.md is out of date; {WRITE}=1 writes it anew");
}

/// The first two words of importance that a program says of its version.
fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let line =
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().replace("nginx version: nginx/", "nginx ");
    let mut words = line.split_whitespace().filter(|word| *word != "version");
    let (name, number) = (words.next().unwrap_or(program), words.next().unwrap_or_default());
    format!("{name} {}", number.split('-').next().unwrap_or_default())
}

#[test]
fn the_corpus_names_every_case_once_and_is_shown_whole() {
    let cases = cases();
    let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 60, "{}", cases.len());
    let way = Way { prefix: "/p", host: "h", pass: "" };
    for case in cases {
        let bytes = case.bytes(way);
        assert!(!bytes.windows(3).any(|mark| mark == b"{P}" || mark == b"{H}"), "{}", shown(&bytes));
    }
}
