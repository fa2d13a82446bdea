//! The way to an agent over links that are lost, and sessions that are held over it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_net::head::RequestHead;
use landfast_net::hold::{Account, Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{LinkError, OpenAnswer, OpenRequest, ResumeRequest, open, resume};
use landfast_net::socket::Socket;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::Agent;

/// A session that is held, to its end.
pub(crate) type Holding = JoinHandle<(Ending, Account)>;

/// The way to an agent, on which links are cut after so many bytes.
#[derive(Clone)]
pub(crate) struct Way {
    path: std::path::PathBuf,
    /// About how many bytes a link carries from the agent; 0 cuts nothing.
    pub(crate) budget: Arc<AtomicU64>,
    rng: Arc<Mutex<StdRng>>,
}

impl Way {
    pub(crate) fn to(agent: &Agent, budget: u64) -> Self {
        let seed = std::env::var("LANDFAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        eprintln!("LANDFAST_SEED={seed}");
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { path: agent.socket("agent.sock"), budget: Arc::new(AtomicU64::new(budget)), rng }
    }

    pub(crate) async fn dial(&self) -> std::io::Result<Socket> {
        let (near, middle) = UnixStream::pair()?;
        let far = UnixStream::connect(&self.path).await?;
        let budget = self.budget.load(Ordering::Relaxed);
        // Enough for the head and some data: links that bring nothing are given up on, and rightly.
        let most = if budget == 0 { u64::MAX } else { 1_000 + self.rng.lock().unwrap().random_range(0..budget) };
        tokio::spawn(async move {
            let ((from_client, to_client), (from_agent, to_agent)) = (middle.into_split(), far.into_split());
            // When the agent has said its last byte, both directions are gone, wherever in a record that is.
            tokio::select! {
                () = carry(from_client, to_agent, u64::MAX) => {}
                () = carry(from_agent, to_client, most) => {}
            }
        });
        Ok(Socket::unix(near))
    }

    /// Opens a session.
    pub(crate) async fn open(&self, head: RequestHead) -> Result<(Socket, OpenAnswer), LinkError> {
        open(self.dial().await.unwrap(), "/links", &OpenRequest::new(head), &[]).await
    }

    /// Opens a session and holds it at its client end, as a gateway does: its local stream, the agent's yes, and how it
    /// goes on.
    pub(crate) async fn hold(&self, head: &RequestHead) -> (DuplexStream, OpenAnswer, Holding) {
        let (socket, answer) = loop {
            match self.open(head.clone()).await {
                Ok(opened) => break opened,
                // The way was cut before the session was there.
                Err(LinkError::Connection(_)) => {}
                Err(LinkError::Refused(refusal)) => panic!("refused: {refusal:?}"),
            }
        };
        let (near, mut local) = tokio::io::duplex(64 * 1024);
        let (mut way, opened) = (self.clone(), answer.clone());
        let holding = tokio::spawn(async move {
            let mut holder = Holder::new(socket, &opened, Generation(3));
            let (_presence, mut present) = watch::channel(Presence::Here(Generation(3)));
            let ending = holder.run(&mut local, &mut way, &mut present).await;
            let account = holder.account();
            holder.leave(Close::new(ErrorCode::ClientLost, "")).await;
            (ending, account)
        });
        (near, answer, holding)
    }
}

async fn carry(from: impl tokio::io::AsyncRead + Unpin, mut to: impl tokio::io::AsyncWrite + Unpin, most: u64) {
    let _ = tokio::io::copy(&mut from.take(most), &mut to).await;
}

impl Dialer for Way {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let way = self.clone();
        Box::pin(async move {
            let socket = way.dial().await.map_err(|_| ErrorCode::NodeUnreachable)?;
            let resumed = resume(socket, "/links", &request, &[]).await.map_err(|error| error.code())?;
            Ok(Resumed { socket: resumed.0, received: resumed.1, generation: Generation(3) })
        })
    }
}
