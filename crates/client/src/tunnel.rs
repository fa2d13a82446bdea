//! A connection of the caller's, carried to a server inside an instance by a session: links may be lost, gateways and
//! nodes restart and the instance move, and both ends notice a pause.

use std::time::Duration;

use landfast_core::cdp::START_BUDGET;
use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::carry::Local;
use landfast_net::head::{Headers, RequestHead};
use landfast_net::hold::{Ending, Holder};
use tokio::sync::watch;

use crate::client::Client;
use crate::conversation::State;
use crate::error::Error;
use crate::way::{Redialler, Way};

/// How long the first link may take to stand: as long as a browser may take to start, wherever on the way to it something
/// has to be started first. Whoever dials a browser waits for that, and has no more patience with a port that leads there.
const OPENING: Duration = START_BUDGET;

/// Where a tunnel leads, and how stubborn it is.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The instance.
    pub instance: InstanceId,
    /// The service's name or port there; `cdp` is the browser of a browser instance.
    pub place: String,
    /// How long to go on dialling while nothing answers, before the connection is given up.
    pub patience: Duration,
    /// Hears whether it is connected.
    pub state: watch::Sender<State>,
}

impl Client {
    /// Carries a connection until either of its ends has ended it; the end of one direction is the end of both. Bytes
    /// arrive in order, none twice and none left out.
    ///
    /// Not cancel safe: what is dropped is a connection in the middle of its bytes, to be closed as one that broke.
    ///
    /// # Errors
    ///
    /// The refusal, for example `service.unknown`; [`Error::Ended`] if the far end or the instance was lost, of which the
    /// local end should see a reset.
    pub async fn carry<S>(&self, tunnel: &Tunnel, local: &mut S) -> Result<(), Error>
    where
        S: Local,
    {
        let way = Way::new(self.clone(), tunnel.instance);
        let head = || RequestHead {
            method: "CONNECT".to_owned(),
            target: format!("/services/{}", tunnel.place),
            headers: Headers::new(),
        };
        let (socket, answer) = way.open(OPENING, head, 200, |_, _| {}).await?;
        let mut holder = Holder::new(socket, &answer, Generation(0)).with_resume_window(tunnel.patience);
        // The registry is not ours to watch: all we know is what our dials bring back.
        let (_, mut presence) = watch::channel(Presence::Unknown);
        let mut redialler = Redialler::new(way, tunnel.state.clone());
        match holder.run(local, &mut redialler, &mut presence).await {
            Ending::Far(close) => {
                // Until it is answered it keeps the session for another link. The local end need not wait for that.
                tokio::spawn(holder.leave(close.clone()));
                match close.code {
                    ErrorCode::UpstreamEnded => Ok(()),
                    code => Err(Error::Ended { code: Some(code), reason: close.reason }),
                }
            }
            Ending::Refused(code) => Err(Error::Ended { code: Some(code), reason: String::new() }),
            Ending::Local(failure) => {
                let code = if failure.is_some() { ErrorCode::ClientLost } else { ErrorCode::ClientClose };
                holder.leave(Close::new(code, "")).await;
                Ok(())
            }
        }
    }
}
