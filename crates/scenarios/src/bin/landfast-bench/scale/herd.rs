//! The instances: very many that stand where they are, and a few that move.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use landfast_core::lifecycle::{begin_external_move, commit_external_move};
use landfast_core::record::{Instance, keys};
use landfast_core::{InstanceId, NodeId};
use landfast_registry::cell::Cell;
use landfast_registry::records;
use landfast_registry::store::{Expect, Revision, Store, Swap};
use landfast_scenarios::external;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Records that are written at once.
const AT_ONCE: usize = 64;

/// Instances that move, in turns.
const MOVERS: usize = 16;

/// Nodes that the others are on.
const NODES: usize = 200;

/// The service's name.
const SERVICE: &str = "web";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// All of them.
pub(super) struct Herd {
    store: Arc<dyn Store>,
    server: SocketAddr,
    movers: Vec<Mutex<Mover>>,
}

/// An instance that moves, and what is asked of it.
#[derive(Clone)]
pub(super) struct Mover {
    instance: Instance,
    revision: Revision,
    /// A request that does not wait for it.
    pub(super) at_once: Vec<u8>,
    /// A request that does.
    pub(super) waiting: Vec<u8>,
}

impl Herd {
    /// Writes `count` records, past the API.
    ///
    /// # Errors
    ///
    /// The store does not take them.
    pub(super) async fn write(cell: &Cell, store: Arc<dyn Store>, count: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = listener.local_addr()?;
        tokio::spawn(serve(listener));
        let nodes: Vec<NodeId> = (0..NODES).map(|number| NodeId::new(number as u64, rand::random())).collect();
        let write = async |number: usize| records::create_instance(&*store, &standing(&nodes, number)).await.map(drop);
        stream::iter(MOVERS..count).map(write).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let mut movers = Vec::new();
        for _ in 0..MOVERS {
            let instance = external::record(&[(SERVICE, server)]);
            let revision = records::create_instance(&*store, &instance).await?;
            let token = crate::token(cell, instance.id)?;
            let (at_once, waiting) = (request(instance.id, &token, "0"), request(instance.id, &token, "30"));
            movers.push(Mutex::new(Mover { instance, revision, at_once, waiting }));
        }
        Ok(Self { store, server, movers })
    }

    /// Begins the move of the next instance.
    ///
    /// # Errors
    ///
    /// The store does not take it.
    pub(super) async fn begin(&self, number: usize) -> Result<Mover> {
        let mut mover = self.movers[number % MOVERS].lock().expect("no holder panics").clone();
        begin_external_move(&mut mover.instance)?;
        self.put(&mut mover).await?;
        Ok(mover)
    }

    /// Ends its move.
    ///
    /// # Errors
    ///
    /// The store does not take it.
    pub(super) async fn commit(&self, mover: &mut Mover) -> Result<()> {
        let place = [(SERVICE.parse().expect("a name"), self.server.to_string())].into();
        commit_external_move(&mut mover.instance, None, &place)?;
        self.put(mover).await?;
        let is_it = |other: &&Mutex<Mover>| other.lock().expect("no holder panics").instance.id == mover.instance.id;
        let own = self.movers.iter().find(is_it).context("it is one of them")?;
        *own.lock().expect("no holder panics") = mover.clone();
        Ok(())
    }

    async fn put(&self, mover: &mut Mover) -> Result<()> {
        let (key, value) = (keys::instance(mover.instance.id), records::encode(&mover.instance)?);
        match self.store.put(&key, Expect::Revision(mover.revision), value, None).await? {
            Swap::Done(revision) => mover.revision = revision,
            Swap::Conflict(_) => bail!("somebody else has written its record"),
        }
        Ok(())
    }
}

/// One that runs on a node, as its node would write it.
fn standing(nodes: &[NodeId], number: usize) -> Instance {
    let on = number % nodes.len();
    Instance {
        spec: Default::default(),
        node: Some(nodes[on]),
        host: None,
        address: Some(format!("10.7.{}.{}:7080", on / 250, on % 250)),
        labels: [("team".to_owned(), format!("t{}", number % 50))].into(),
        ..external::record(&[])
    }
}

fn request(instance: InstanceId, token: &str, wait: &str) -> Vec<u8> {
    format!(
        "GET /i/{instance}/{SERVICE}/ HTTP/1.1\r\nHost: bench.example.test\r\nAuthorization: Bearer {token}\r\n\
         landfast-wait: {wait}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Answers for as long as the program runs.
async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(answer_all(socket));
    }
}

/// Answers until the connection ends, however that is.
async fn answer_all(mut socket: TcpStream) {
    let mut heard = Vec::new();
    while matches!(socket.read_buf(&mut heard).await, Ok(1..)) {
        while let Some(end) = heard.windows(4).position(|window| window == b"\r\n\r\n") {
            heard.drain(..end + 4);
            if socket.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}
