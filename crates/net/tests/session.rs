//! A held session against a served one over real sockets that are cut again and again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::session::WINDOW;
use landfast_core::{ErrorCode, SessionId};
use landfast_net::far::{self, Ended, Far, Handle};
use landfast_net::head::{HEAD_MAX, Headers, RequestHead, ResponseHead, read_request, write_all};
use landfast_net::hold::{Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{self, OpenAnswer, OpenRequest, ResumeRequest, Secret};
use landfast_net::socket::Socket;
use landfast_net::{clock, random};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A far end that is one side of an in-memory pipe.
struct Pipe(DuplexStream);

impl Far for Pipe {
    fn ending(&self) -> Close {
        Close::new(ErrorCode::ProcessExited, "0")
    }
}

macro_rules! delegate {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {$(
        fn $name(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>, $($arg: $ty),*) -> std::task::Poll<std::io::Result<$out>> {
            std::pin::Pin::new(&mut self.0).$name(cx, $($arg),*)
        }
    )*};
}

impl AsyncRead for Pipe {
    delegate! { poll_read(buf: &mut ReadBuf<'_>) -> (); }
}

impl AsyncWrite for Pipe {
    delegate! {
        poll_write(buf: &[u8]) -> usize;
        poll_flush() -> ();
        poll_shutdown() -> ();
    }
}

/// An agent with one session, whose links come through a listener that can be cut.
struct Agent {
    address: std::net::SocketAddr,
    cut: watch::Sender<u64>,
    served: Arc<Mutex<Option<JoinHandle<Ended>>>>,
}

impl Agent {
    async fn start(far: DuplexStream, linger: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = watch::channel(0);
        let served = Arc::new(Mutex::new(None));
        let state = Arc::new(Mutex::new((Some(far), None::<(SessionId, Secret, Handle)>)));
        let task = served.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, task, cuts) = (state.clone(), task.clone(), cuts.clone());
                tokio::spawn(async move {
                    let (near, inner) = tokio::net::UnixStream::pair().unwrap();
                    tokio::spawn(relay(stream, near, cuts));
                    Box::pin(accept(Socket::unix(inner), state, task, linger)).await;
                });
            }
        });
        Self { address, cut, served }
    }

    fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    async fn dial(address: std::net::SocketAddr) -> Socket {
        Socket::tcp(TcpStream::connect(address).await.unwrap())
    }

    async fn ended(&self) -> Ended {
        let task = self.served.lock().unwrap().take().expect("a session was opened");
        task.await.unwrap()
    }
}

type State = Arc<Mutex<(Option<DuplexStream>, Option<(SessionId, Secret, Handle)>)>>;

/// Copies between the two until a cut, which resets both in the middle of whatever they carried.
async fn relay(outer: TcpStream, inner: tokio::net::UnixStream, mut cuts: watch::Receiver<u64>) {
    cuts.mark_unchanged();
    let (mut outer, mut inner) = (Socket::tcp(outer), Socket::unix(inner));
    tokio::select! {
        _ = cuts.changed() => outer.abort(),
        _ = landfast_net::copy::copy_both(&mut outer, &mut inner) => {}
    }
}

async fn accept(mut socket: Socket, state: State, task: Arc<Mutex<Option<JoinHandle<Ended>>>>, linger: Duration) {
    let Ok(head) = read_request(&mut socket, HEAD_MAX).await else { return };
    let get = |name: &str| head.headers.get(name);
    if let Some(session) = head.path().strip_prefix("/links/") {
        let request = ResumeRequest::decode(session, get).unwrap();
        let (id, secret, handle) = state.lock().unwrap().1.clone().unwrap();
        assert!(request.session == id && request.secret == secret);
        let Ok(received) = handle.prepare(request.link, request.received).await else { return };
        if write_all(&mut socket, &link::resume_answer(received).encode()).await.is_ok() {
            handle.attach(request.link, request.received, socket).await;
        }
        return;
    }
    let request = OpenRequest::decode(get).unwrap();
    let (handle, commands) = far::handle();
    let answer = OpenAnswer {
        session: random::session_id(),
        secret: Secret::generate(),
        window: WINDOW,
        head: ResponseHead { status: 101, headers: Headers::new() },
    };
    let far = {
        let mut state = state.lock().unwrap();
        state.1 = Some((answer.session, answer.secret.clone(), handle));
        state.0.take().unwrap()
    };
    write_all(&mut socket, &answer.encode().encode()).await.unwrap();
    *task.lock().unwrap() = Some(tokio::spawn(far::serve(Pipe(far), request.window, socket, commands, linger)));
}

struct Redials {
    address: std::net::SocketAddr,
}

impl Dialer for Redials {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let address = self.address;
        Box::pin(async move {
            let socket = Agent::dial(address).await;
            let resumed = link::resume(socket, "/links", &request, &[]).await.map_err(|error| error.code())?;
            Ok(Resumed { socket: resumed.0, received: resumed.1, generation: Generation(1) })
        })
    }
}

/// Dials where nobody listens.
struct Nowhere {
    address: std::net::SocketAddr,
}

impl Dialer for Nowhere {
    fn resume(&mut self, _request: ResumeRequest) -> Attempt {
        let address = self.address;
        Box::pin(async move {
            TcpStream::connect(address).await.map_err(|_| ErrorCode::NodeUnreachable)?;
            unreachable!("somebody listens on a port that was free")
        })
    }
}

async fn hold(agent: &Agent) -> (Holder, Redials) {
    let head = RequestHead { method: "GET".into(), target: "/".into(), headers: Headers::new() };
    let socket = Agent::dial(agent.address).await;
    let (socket, answer) = link::open(socket, "/links", &OpenRequest::new(head), &[]).await.unwrap();
    (Holder::new(socket, &answer, Generation(1)), Redials { address: agent.address })
}

/// The byte at `offset` of a stream, so that a lost, doubled or moved one shows.
fn byte(offset: usize, salt: u8) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9) >> 13) as u8 ^ salt
}

async fn say(mut writer: impl AsyncWrite + Unpin, len: usize, salt: u8) {
    let mut at = 0;
    while at < len {
        let n = (len - at).min(10_007);
        let bytes: Vec<u8> = (at..at + n).map(|offset| byte(offset, salt)).collect();
        writer.write_all(&bytes).await.unwrap();
        at += n;
    }
}

async fn hear(mut reader: impl AsyncRead + Unpin, len: usize, salt: u8, heard: &watch::Sender<usize>) {
    let (mut buffer, mut at) = (vec![0; 70_000], 0);
    while at < len {
        let n = reader.read(&mut buffer).await.unwrap();
        assert!(n > 0, "ended at {at} of {len}");
        let wrong = (at..).zip(&buffer[..n]).find(|(offset, heard)| byte(*offset, salt) != **heard);
        assert_eq!(wrong, None);
        at += n;
        heard.send_modify(|heard| *heard += n);
    }
}

#[tokio::test]
async fn every_byte_arrives_once_both_ways_over_a_hundred_cuts() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let (far, user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_secs(30)).await;
    let (mut holder, mut dialer) = hold(&agent).await;
    let (mut local, client) = duplex(50_000);
    let (mut user_reads, mut user_writes) = tokio::io::split(user);
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let len = 30_000_000;
    let heard = watch::Sender::new(0);
    let (_presence, mut presence) = watch::channel(Presence::Here(Generation(1)));
    let talk = async {
        tokio::join!(
            say(&mut client_writes, len, 1),
            say(&mut user_writes, len, 2),
            hear(&mut user_reads, len, 1, &heard),
            hear(&mut client_reads, len, 2, &heard)
        )
    };
    let cut = async {
        let mut progress = heard.subscribe();
        loop {
            tokio::time::sleep(Duration::from_millis(dice.random_range(1..12))).await;
            agent.cut();
            // A link that carried nothing counts against the session, and a busy machine makes many such. What is heard
            // beyond all that was on its way has come over the new link.
            let on_its_way = *progress.borrow_and_update() + 4 * 50_000;
            progress.wait_for(|heard| *heard > on_its_way).await.unwrap();
        }
    };
    tokio::select! {
        _ = talk => {}
        () = cut => unreachable!("cuts never end"),
        ending = holder.run(&mut local, &mut dialer, &mut presence) => panic!("{ending:?}"),
    }
    println!("{} links", holder.account().links);
    assert!(holder.account().links > 20, "{:?}", holder.account());
}

#[tokio::test]
async fn the_far_ends_last_bytes_and_its_cause_arrive_though_the_link_is_cut_meanwhile() {
    let (far, mut user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_secs(30)).await;
    let (mut holder, mut dialer) = hold(&agent).await;
    agent.cut();
    user.write_all(b"last words").await.unwrap();
    drop(user);
    let (mut local, mut client) = duplex(50_000);
    let (_presence, mut presence) = watch::channel(Presence::Here(Generation(1)));
    let ending = holder.run(&mut local, &mut dialer, &mut presence).await;
    assert_eq!(ending, Ending::Far(Close::new(ErrorCode::ProcessExited, "0")));
    holder.leave(Close::new(ErrorCode::ClientClose, "")).await;
    drop(local);
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "last words");
    assert!(matches!(agent.ended().await, Ended::Far(_)));
}

#[tokio::test]
async fn a_client_that_leaves_has_its_last_input_delivered_and_its_cause_told() {
    let (far, mut user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_secs(30)).await;
    let (mut holder, mut dialer) = hold(&agent).await;
    let (mut local, mut client) = duplex(50_000);
    let (_presence, mut presence) = watch::channel(Presence::Here(Generation(1)));
    client.write_all(b"goodbye").await.unwrap();
    drop(client);
    assert_eq!(holder.run(&mut local, &mut dialer, &mut presence).await, Ending::Local(None));
    holder.leave(Close::new(ErrorCode::ClientLost, "")).await;
    let mut heard = vec![0; 7];
    user.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, b"goodbye");
    assert_eq!(agent.ended().await, Ended::Client(Close::new(ErrorCode::ClientLost, "")));
}

/// A connection: the side that is held, and the client's.
async fn connected(listener: &TcpListener) -> (Socket, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Socket::tcp(listener.accept().await.unwrap().0), client)
}

#[tokio::test]
async fn a_client_that_leaves_unread_bytes_behind_is_missed_while_nobody_can_take_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for is_reset in [false, true] {
        let (far, _user) = duplex(50_000);
        let agent = Agent::start(far, Duration::from_secs(30)).await;
        let (mut holder, _) = hold(&agent).await;
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut dialer = Nowhere { address: nowhere };
        let (mut local, mut client) = connected(&listener).await;
        let (_presence, mut presence) = watch::channel(Presence::Here(Generation(1)));
        agent.cut();
        let leaves = async {
            if is_reset {
                // Until nothing is taken any more.
                let piece = vec![7; 64 * 1024];
                while timeout(Duration::from_millis(300), client.write_all(&piece)).await.is_ok() {}
            } else {
                // More than the window, and no more than the kernel takes: an end stands behind what is on its way.
                client.write_all(&vec![7; WINDOW as usize + 20_000]).await.unwrap();
            }
            let left = clock::now();
            match is_reset {
                true => Socket::tcp(client).abort(),
                false => drop(client),
            }
            left
        };
        let (ending, left) = tokio::join!(holder.run(&mut local, &mut dialer, &mut presence), leaves);
        assert_eq!(ending, Ending::Local(None));
        assert!(clock::now().since(left) < Duration::from_secs(1), "reset {is_reset}");
    }
}

#[tokio::test]
async fn what_a_client_said_before_it_left_arrives_while_there_is_somebody_to_take_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (far, user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_secs(30)).await;
    let (mut holder, mut dialer) = hold(&agent).await;
    let (mut local, mut client) = connected(&listener).await;
    let (_presence, mut presence) = watch::channel(Presence::Here(Generation(1)));
    let (len, heard) = (4_000_000, watch::Sender::new(0));
    let leaves = async {
        say(&mut client, len, 1).await;
        drop(client);
    };
    let held = async {
        let ending = holder.run(&mut local, &mut dialer, &mut presence).await;
        holder.leave(Close::new(ErrorCode::ClientLost, "")).await;
        ending
    };
    let (ending, (), ()) = tokio::join!(held, leaves, hear(user, len, 1, &heard));
    assert_eq!(ending, Ending::Local(None));
}

#[tokio::test]
async fn a_session_nobody_comes_back_to_is_given_up() {
    let (far, _user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_millis(50)).await;
    let (holder, _dialer) = hold(&agent).await;
    let started = clock::now();
    drop(holder);
    assert_eq!(agent.ended().await, Ended::Abandoned);
    assert!(clock::now().since(started) >= Duration::from_millis(50));
}

#[tokio::test]
async fn the_registrys_word_ends_a_held_session_at_once() {
    let (far, _user) = duplex(50_000);
    let agent = Agent::start(far, Duration::from_secs(30)).await;
    let (mut holder, mut dialer) = hold(&agent).await;
    let (mut local, _client) = duplex(50_000);
    let (word, mut presence) = watch::channel(Presence::Here(Generation(1)));
    let ended = tokio::join!(holder.run(&mut local, &mut dialer, &mut presence), async {
        word.send(Presence::Ended(ErrorCode::InstanceGone)).unwrap();
    });
    assert_eq!(ended.0, Ending::Refused(ErrorCode::InstanceGone));
}
