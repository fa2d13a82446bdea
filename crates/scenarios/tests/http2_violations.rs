//! HTTP/2 as it must not be spoken (RFC 9113): the gateway ends the stream or the connection with the code that the RFC
//! asks for, the server behind sees nothing of it, and everybody else is served as before.

use std::time::Duration;

use landfast_scenarios::cell::{Cell, Plan};
use landfast_scenarios::leaks::Footprint;
use landfast_scenarios::raw_http2::*;
use landfast_scenarios::recorder::{Recorder, Seen};
use landfast_scenarios::served::Served;

/// A gateway and a server behind it that writes down what reaches it.
struct Ground {
    cell: Cell,
    recorder: Recorder,
    served: Served,
}

/// What is sent after the settings, and what RFC 9113 asks of the gateway.
type Row = (&'static str, Vec<u8>, Verdict);

/// Where the h2 crate does not do what the RFC says it must. Most end the connection all the same, with a coarser code.
const OTHERWISE: [(&str, Verdict); 8] = [
    ("SETTINGS of five bytes", Verdict::GoAway(PROTOCOL_ERROR)),
    ("an answer to SETTINGS that says more", Verdict::GoAway(PROTOCOL_ERROR)),
    ("an initial window beyond 2^31", Verdict::GoAway(PROTOCOL_ERROR)),
    ("a reset of three bytes", Verdict::GoAway(PROTOCOL_ERROR)),
    ("WINDOW_UPDATE of three bytes", Verdict::GoAway(PROTOCOL_ERROR)),
    ("PING of seven bytes", Verdict::GoAway(PROTOCOL_ERROR)),
    ("an entry that no table has", Verdict::GoAway(PROTOCOL_ERROR)),
    // The crate drops it before anybody can see it, so the gateway cannot refuse it; nor can it reach the server behind.
    ("a pseudo-header among the trailers", Verdict::Answered),
];

impl Ground {
    async fn new() -> Self {
        let cell = Plan::default().bare().start().await;
        let recorder = Recorder::start().await;
        let served = Served::elsewhere(&cell, recorder.address()).await;
        let ground = Self { cell, recorder, served };
        let (mut client, request) = (ground.client().await, ground.begin(1, END_STREAM, &[]));
        client.send(&request).await;
        assert_eq!(client.verdict(1).await, Verdict::Answered);
        assert!(matches!(ground.recorder.take()[..], [Seen::Whole(_)]), "what is written by hand is a request");
        ground
    }

    async fn client(&self) -> RawHttp2 {
        RawHttp2::open(self.cell.gateway.address()).await
    }

    /// The lines of a good request to the server.
    fn lines(&self) -> Vec<(&str, String)> {
        let instance = &self.served.instance;
        vec![
            (":method", "POST".to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", "box.test".to_owned()),
            (":path", format!("/i/{}/{}/x", instance.id, self.served.place)),
            ("authorization", format!("Bearer {}", instance.token)),
        ]
    }

    /// The header block of a request with `more` lines at its end, and without the lines called so in `less`.
    fn block(&self, less: &[&str], more: &[(&str, &str)]) -> Vec<u8> {
        let lines = self.lines();
        let kept = lines.iter().filter(|(name, _)| !less.contains(name)).map(|(name, value)| (*name, value.as_str()));
        block(&kept.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    /// The header block of a request for another path.
    fn block_at(&self, path: &str) -> Vec<u8> {
        let lines = self.lines();
        let changed = lines.iter().map(|(name, value)| (*name, if *name == ":path" { path } else { value.as_str() }));
        block(&changed.collect::<Vec<_>>())
    }

    /// A request's HEADERS.
    fn begin(&self, stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | flags, stream, &self.block(&[], more))
    }

    /// Says every row on a connection of its own.
    async fn judges(&self, stream: u32, rows: Vec<Row>) {
        let mut wrong = Vec::new();
        for (what, bytes, asked) in rows {
            let mut client = self.client().await;
            client.send(&bytes).await;
            let verdict = client.verdict(stream).await;
            let seen = self.recorder.take();
            self.is_alive(what).await;
            let otherwise = OTHERWISE.iter().find(|(name, _)| *name == what).map(|(_, verdict)| *verdict);
            // A request whose body turns out malformed has begun.
            let is_unseen = seen.iter().all(|seen| matches!(seen, Seen::Cut(_)));
            if !meets(verdict, otherwise.unwrap_or(asked)) || (verdict != Verdict::Answered && !is_unseen) {
                wrong.push(format!("{what}: {verdict:?}, where {asked:?} is asked; the server behind saw {seen:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// A fresh client is served.
    async fn is_alive(&self, after: &str) {
        let mut client = self.client().await;
        let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/livez")];
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&lines))).await;
        assert_eq!(client.verdict(1).await, Verdict::Answered, "after {after}");
    }
}

/// Whether a verdict is what is asked. An end may treat a stream's error as the connection's (RFC 9113, section 5.4.1).
fn meets(verdict: Verdict, asked: Verdict) -> bool {
    match (verdict, asked) {
        (Verdict::GoAway(said), Verdict::Reset(code)) => said == code,
        (said, asked) => said == asked,
    }
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

#[tokio::test]
async fn a_preface_that_is_none_begins_no_http2() {
    let ground = Ground::new().await;
    for preface in [&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n"] {
        let mut client = RawHttp2::silent(ground.cell.gateway.address()).await;
        client.send(preface).await;
        let heard = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(heard.starts_with("HTTP/1.1 4") || heard.starts_with("HTTP/1.1 5"), "{heard:?}");
        ground.is_alive("a bad preface").await;
    }
}

#[tokio::test]
async fn what_breaks_the_connection_ends_it_with_its_code() {
    let ground = Ground::new().await;
    let head = || ground.block(&[], &[]);
    let over = |code| Verdict::GoAway(code);
    let rows: Vec<Row> = vec![
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), over(FRAME_SIZE_ERROR)),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), over(PROTOCOL_ERROR)),
        ("an answer to SETTINGS that says more", frame(SETTINGS, ACK, 0, &[0; 6]), over(FRAME_SIZE_ERROR)),
        ("an initial window beyond 2^31", frame(SETTINGS, 0, 0, &[0, 4, 128, 0, 0, 0]), over(FLOW_CONTROL_ERROR)),
        ("a largest frame of a byte", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), over(PROTOCOL_ERROR)),
        ("a frame larger than was allowed", frame(DATA, 0, 1, &[0; 16_385]), over(FRAME_SIZE_ERROR)),
        ("DATA on the connection", frame(DATA, 0, 0, b"x"), over(PROTOCOL_ERROR)),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), over(PROTOCOL_ERROR)),
        (
            "DATA of nothing but padding, and more of that",
            [ground.begin(1, 0, &[]), frame(DATA, PADDED, 1, &[9])].concat(),
            over(PROTOCOL_ERROR),
        ),
        ("HEADERS on the connection", frame(HEADERS, END_HEADERS, 0, &head()), over(PROTOCOL_ERROR)),
        ("HEADERS on an even stream", frame(HEADERS, END_HEADERS, 2, &head()), over(PROTOCOL_ERROR)),
        ("a stream that was skipped", [livez(5), livez(3)].concat(), over(PROTOCOL_ERROR)),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), over(PROTOCOL_ERROR)),
        ("a reset of three bytes", [livez(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), over(FRAME_SIZE_ERROR)),
        ("a client's promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), over(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of nothing", update(0, 0), over(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), over(FRAME_SIZE_ERROR)),
        ("WINDOW_UPDATE of an idle stream", update(1, 1), over(PROTOCOL_ERROR)),
        ("a window that overflows", update(0, i32::MAX as u32), over(FLOW_CONTROL_ERROR)),
        ("PING of seven bytes", frame(PING, 0, 0, &[0; 7]), over(FRAME_SIZE_ERROR)),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), over(PROTOCOL_ERROR)),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), over(PROTOCOL_ERROR)),
        (
            "a header block with another frame inside",
            [frame(HEADERS, 0, 1, &head()[..40]), frame(PING, 0, 0, &[0; 8])].concat(),
            over(PROTOCOL_ERROR),
        ),
        (
            "a header block that goes on on another stream",
            [frame(HEADERS, 0, 1, &head()[..40]), frame(CONTINUATION, END_HEADERS, 3, &head()[40..])].concat(),
            over(PROTOCOL_ERROR),
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &head()), over(PROTOCOL_ERROR)),
        ("an entry that no table has", frame(HEADERS, END_HEADERS, 1, &[0xfe]), over(COMPRESSION_ERROR)),
    ];
    ground.judges(1, rows).await;
}

#[tokio::test]
async fn what_breaks_a_stream_ends_it_with_its_code() {
    let ground = Ground::new().await;
    let begun = |more: Vec<u8>| [ground.begin(1, 0, &[]), more].concat();
    let without =
        |names: &[&str], more: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &ground.block(names, more));
    let with = |name: &str, value: &str| without(&[], &[(name, value)]);
    let sized = |size: &str, data: &[u8]| {
        [ground.begin(1, 0, &[("content-length", size)]), frame(DATA, END_STREAM, 1, data)].concat()
    };
    let malformed = Verdict::Reset(PROTOCOL_ERROR);
    let rows: Vec<Row> = vec![
        ("a stream's WINDOW_UPDATE of nothing", begun(update(1, 0)), malformed),
        ("a stream's window that overflows", begun(update(1, i32::MAX as u32)), Verdict::Reset(FLOW_CONTROL_ERROR)),
        ("a name in upper case", with("X-Loud", "1"), malformed),
        ("a name with a colon inside", with("x:y", "1"), malformed),
        ("a value with a line's end inside", with("x-two", "1\r\nx-lines: 2"), malformed),
        ("Connection", with("connection", "close"), malformed),
        ("Transfer-Encoding", with("transfer-encoding", "chunked"), malformed),
        ("Upgrade", with("upgrade", "websocket"), malformed),
        ("TE other than trailers", with("te", "gzip"), malformed),
        ("a pseudo-header behind the others", without(&[":path"], &[(":path", "/livez")]), malformed),
        ("a pseudo-header twice", with(":path", "/"), malformed),
        ("a pseudo-header that nobody knows", with(":mood", "good"), malformed),
        ("an answer's pseudo-header", frame(HEADERS, END_HEADERS | END_STREAM, 1, &status()), malformed),
        ("no :method", without(&[":method"], &[]), malformed),
        ("no :scheme", without(&[":scheme"], &[]), malformed),
        ("no :path", without(&[":path"], &[]), malformed),
        ("no :path and Host", without(&[":path", ":authority"], &[("host", "box.test")]), malformed),
        ("an empty :path", frame(HEADERS, END_HEADERS | END_STREAM, 1, &ground.block_at("")), malformed),
        ("neither :authority nor Host", without(&[":authority"], &[]), malformed),
        ("Host and :authority that differ", with("host", "other.test"), malformed),
        ("less than the content-length", sized("5", b"four"), malformed),
        ("more than the content-length", sized("3", b"four"), malformed),
        ("no body, though there is a content-length", with("content-length", "5"), malformed),
        ("two content-lengths", without(&[], &[("content-length", "0"), ("content-length", "1")]), malformed),
        (
            "trailers that do not end the stream",
            begun(frame(HEADERS, END_HEADERS, 1, &block(&[("x-sum", "1")]))),
            malformed,
        ),
        (
            "a pseudo-header among the trailers",
            begun(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/")]))),
            malformed,
        ),
        ("a stream that depends on itself", begun(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])), malformed),
    ];
    ground.judges(1, rows).await;
}

/// A whole request that the gateway answers by itself.
fn livez(stream: u32) -> Vec<u8> {
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/livez")];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&lines))
}

/// The header block of an answer.
fn status() -> Vec<u8> {
    block(&[(":status", "200")])
}

// --- Floods ---

/// How often what floods is said: a hundred times what any bound lets pass.
const MANY: u32 = 20_000;

/// What a client may make the gateway keep that reads nothing, and the noise of a busy process: a connection's buffers are
/// some hundred KiB.
const ROOM: u64 = 16 * 1024 * 1024;

impl Ground {
    /// Sends a flood, which must end the connection with ENHANCE_YOUR_CALM.
    async fn is_not_flooded(&self, what: &str, flood: Vec<u8>) {
        let before = Footprint::of(self.cell.gateway.pid());
        let mut client = self.client().await;
        client.send(&flood).await;
        let verdict = client.verdict(u32::MAX).await;
        assert_eq!(verdict, Verdict::GoAway(ENHANCE_YOUR_CALM), "{what}");
        let after = Footprint::of(self.cell.gateway.pid());
        assert!(after.resident < before.resident + ROOM, "{what}: {before}, then {after}");
        self.is_alive(what).await;
    }

    /// Says `bytes` without end and reads none of the answers: the gateway has to stop reading too.
    async fn stops_reading(&self, what: &str, bytes: &[u8]) {
        // What the kernel's buffers hold both ways is a fraction of it.
        const MOST: usize = 128 * 1024 * 1024;
        let before = Footprint::of(self.cell.gateway.pid());
        let mut client = self.client().await;
        let taken = client.pour(&bytes.repeat(1_000), MOST, Duration::from_secs(1)).await;
        let after = Footprint::of(self.cell.gateway.pid());
        assert!(
            taken < MOST && after.resident < before.resident + ROOM,
            "{what}: {taken} bytes, {before}, then {after}"
        );
        self.is_alive(what).await;
    }
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection_and_hardly_any_is_run() {
    let ground = Ground::new().await;
    let one = |at: u32| [ground.begin(2 * at + 1, END_STREAM, &[]), frame(RST_STREAM, 0, 2 * at + 1, &[0, 0, 0, 8])];
    ground.is_not_flooded("resets", (0..MANY).flat_map(one).collect::<Vec<_>>().concat()).await;
    let seen = ground.recorder.take().len();
    assert!(seen < 256, "{seen} requests were run, more than may run at once");
}

#[tokio::test]
async fn requests_that_the_gateway_must_reset_end_the_connection() {
    let ground = Ground::new().await;
    let one = |at: u32| ground.begin(2 * at + 1, END_STREAM, &[("te", "gzip")]);
    ground.is_not_flooded("malformed requests", (0..MANY).flat_map(one).collect()).await;
    assert_eq!(ground.recorder.take(), []);
}

#[tokio::test]
async fn a_header_block_without_end_ends_the_connection() {
    let ground = Ground::new().await;
    let begun = frame(HEADERS, 0, 1, &ground.block(&[], &[]));
    for (what, more) in [("empty CONTINUATION", &[][..]), ("CONTINUATION", &block(&[("x-more", "and more")]))] {
        let flood = frame(CONTINUATION, 0, 1, more).repeat(MANY as usize);
        ground.is_not_flooded(what, [begun.clone(), flood].concat()).await;
    }
    assert_eq!(ground.recorder.take(), []);
}

#[tokio::test]
async fn data_frames_without_data_end_the_connection() {
    let ground = Ground::new().await;
    let flood = frame(DATA, 0, 1, &[]).repeat(MANY as usize);
    ground.is_not_flooded("empty DATA", [ground.begin(1, 0, &[]), flood].concat()).await;
}

#[tokio::test]
async fn a_client_that_asks_without_end_and_hears_nothing_is_not_read_on() {
    let ground = Ground::new().await;
    ground.stops_reading("PING", &frame(PING, 0, 0, &[7; 8])).await;
    ground.stops_reading("SETTINGS", &frame(SETTINGS, 0, 0, &[])).await;
}
