//! Services of an instance, as its agent tells them.

use std::fmt;

use http::Method;
use http::header::HeaderName;
use landfast_core::{InstanceId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::client::{Client, DEADLINE};
use crate::error::Error;
use crate::origin::Call;
use crate::process::Exit;

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// It is not running, and nobody will start it.
    Down,
    /// It was started, and is not ready yet.
    Starting,
    /// It is ready.
    Up,
    /// It ended, and is started again after a while.
    Backoff,
    /// It could not be started, and nobody will try again.
    Failed,
    /// Something that this release does not know.
    #[serde(other)]
    Unknown,
}

/// A service as its agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// How it is.
    pub state: ServiceState,
    /// The number of its present or last start.
    pub start: u64,
    /// Its process's id inside the instance, while it runs.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Unix time in milliseconds since when it is in this state.
    pub since: u64,
    /// How it ended last.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

impl Client {
    /// Tells how an instance's services are. This wakes nobody.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `instance.sleeping`.
    pub async fn services(&self, instance: InstanceId) -> Result<Vec<ServiceStatus>, Error> {
        #[derive(Deserialize)]
        struct List {
            services: Vec<ServiceStatus>,
        }
        let mut call = Call::new(Method::GET, Self::data_path(instance, "/services"), DEADLINE);
        call.headers.push((HeaderName::from_static("landfast-wake"), "never".to_owned()));
        let list: List = self.data(instance, &call).await?;
        Ok(list.services)
    }

    /// Starts a service anew; what it held in memory is lost. The answer comes before it is up.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `service.unknown`.
    pub async fn restart_service(&self, instance: InstanceId, name: ServiceName) -> Result<(), Error> {
        let path = Self::data_path(instance, &format!("/services/{name}/restart"));
        self.data_raw(instance, &Call::new(Method::POST, path, DEADLINE)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_as_the_architecture_writes_it_and_a_newer_agents_too() {
        let json = r#"{"name":"web","state":"backoff","start":3,"pid":null,"since":1790000000000,"exit":{"code":1}}"#;
        let status: ServiceStatus = serde_json::from_str(json).unwrap();
        assert_eq!((status.state, status.start, status.exit), (ServiceState::Backoff, 3, Some(Exit::Code(1))));
        let newer = r#"{"name":"web","state":"napping","start":3,"since":0,"later":true}"#;
        assert_eq!(serde_json::from_str::<ServiceStatus>(newer).unwrap().state, ServiceState::Unknown);
    }
}
