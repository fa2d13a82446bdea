//! A session with a process, held over its links as a gateway holds one.

use std::time::Duration;

use landfast_core::InstanceId;
use landfast_core::record::{Instance, keys};
use landfast_core::redial::Presence;
use landfast_core::ws::{HEADER_MAX, Header, Opcode};
use landfast_core::{ErrorCode, lifecycle};
use landfast_net::credential::Credential;
use landfast_net::head::{Headers, RequestHead};
use landfast_net::hold::{Account, Attempt, Dialer, Ending, Holder, Resumed};
use landfast_net::link::{OpenRequest, ResumeRequest, open, resume};
use landfast_net::relay::{Target, dial};
use landfast_registry::store::{Store, WatchEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{TestCell, route};

/// How long one dial may take; a refusal or a cut comes much sooner.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// A client's WebSocket with a process, its session held in a task.
pub(crate) struct Talk {
    client: DuplexStream,
    /// What was read of frames that are not whole.
    pending: Vec<u8>,
    held: JoinHandle<(Ending, Account)>,
    following: JoinHandle<()>,
}

/// Dials the instance wherever its newest record says that it is.
struct ByRecord {
    records: watch::Receiver<Instance>,
    credential: Credential,
}

impl Talk {
    /// Attaches to a process of the instance.
    pub(crate) async fn attach(cell: &TestCell, instance: &Instance, process: &str) -> Self {
        let socket = dial(&route(instance), Target::Agent, cell.cell.credential(), DIAL_DEADLINE).await.unwrap();
        let (link, answer) = open(socket, "/links", &OpenRequest::new(upgrade(process)), &[]).await.unwrap();
        assert_eq!(answer.head.status, 101);
        let mut holder = Holder::new(link, &answer, instance.generation);
        let (records, news) = watch::channel(instance.clone());
        let (client, mut far) = duplex(256 * 1024);
        let (presences, mut presence) = watch::channel(Presence::Here(instance.generation));
        let (store, id) = (cell.store.clone(), instance.id);
        let following = tokio::spawn(async move { follow(&*store, id, records, presences).await });
        let mut dialer = ByRecord { records: news, credential: cell.cell.credential().clone() };
        let held = tokio::spawn(async move {
            let ending = holder.run(&mut far, &mut dialer, &mut presence).await;
            (ending, holder.account())
        });
        Self { client, pending: Vec::new(), held, following }
    }

    /// Sends bytes to the process's input.
    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        let mut frame = [0; HEADER_MAX];
        // A mask of zeros leaves the bytes as they are.
        let mask = Some([0; 4]);
        let header = Header { fin: true, rsv: 0, opcode: Opcode::Binary, mask, len: bytes.len() as u64 + 1 };
        let len = header.encode(&mut frame);
        self.client.write_all(&[&frame[..len], &[0], bytes].concat()).await.unwrap();
    }

    /// Reads exactly so many bytes of the process's output.
    pub(crate) async fn hear(&mut self, len: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < len {
            heard.append(&mut self.whole_frames());
            if heard.len() < len {
                let read = self.client.read_buf(&mut self.pending).await.unwrap();
                assert_ne!(read, 0, "the session ended");
            }
        }
        assert_eq!(heard.len(), len, "more than was said");
        heard
    }

    /// Ends the client, and tells how the session did.
    pub(crate) async fn leave(self) -> (Ending, Account) {
        drop(self.client);
        self.following.abort();
        self.held.await.unwrap()
    }

    /// The output in the frames that are whole.
    fn whole_frames(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while let Some((header, at)) = Header::decode(&self.pending).unwrap() {
            let end = at + usize::try_from(header.len).unwrap();
            if self.pending.len() < end {
                break;
            }
            let frame: Vec<u8> = self.pending.drain(..end).skip(at).collect();
            assert_ne!(header.opcode, Opcode::Close, "{}", String::from_utf8_lossy(&frame));
            if header.opcode == Opcode::Binary && frame[0] == 1 {
                output.extend_from_slice(&frame[1..]);
            }
        }
        output
    }
}

/// Tells the session what the registry says of the instance.
async fn follow(
    store: &dyn Store,
    id: InstanceId,
    records: watch::Sender<Instance>,
    presences: watch::Sender<Presence>,
) {
    let mut watch = store.watch(&keys::instance(id), None);
    while let Ok(event) = watch.next().await {
        let WatchEvent::Changes(changes) = event else { continue };
        for value in changes.into_iter().filter_map(|change| change.value) {
            let record: Instance = serde_json::from_slice(&value).unwrap();
            let presence = presence_of(&record);
            records.send_replace(record);
            presences.send_replace(presence);
        }
    }
}

impl Dialer for ByRecord {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        let (instance, credential) = (self.records.borrow().clone(), self.credential.clone());
        Box::pin(async move {
            let dialled = dial(&route(&instance), Target::Agent, &credential, DIAL_DEADLINE).await;
            let socket = dialled.map_err(|error| error.code())?;
            let resumed = tokio::time::timeout(DIAL_DEADLINE, resume(socket, "/links", &request, &[])).await;
            let resumed = resumed.map_err(|_| ErrorCode::NodeUnreachable)?;
            let (socket, received) = resumed.map_err(|error| error.code())?;
            Ok(Resumed { socket, received, generation: instance.generation })
        })
    }
}

fn presence_of(instance: &Instance) -> Presence {
    if let Some(code) = lifecycle::end_code(instance.phase) {
        return Presence::Ended(code);
    }
    match &instance.moving {
        Some(_) => Presence::Between(ErrorCode::InstanceMoving),
        None => Presence::Here(instance.generation),
    }
}

fn upgrade(process: &str) -> RequestHead {
    let mut headers = Headers::new();
    headers.push("Host", "agent");
    headers.push("Connection", "Upgrade");
    headers.push("Upgrade", "websocket");
    headers.push("Sec-WebSocket-Version", "13");
    headers.push("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    headers.push("Sec-WebSocket-Protocol", "landfast.process.v1");
    RequestHead { method: "GET".into(), target: format!("/processes/{process}/attach?from=start"), headers }
}
