//! Connections made one at a time, with the time of each stage.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use clap::ValueEnum;
use lib_chan::Limits;
use lib_chan::payload::Codec;
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::connect::{Attempt as _, Login};
use super::secure::Client;
use super::{Caller as _, Listening, Peer, Work, chan};
use crate::sample::{Clock, cpu_seconds_of};

/// How far a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A TLS handshake.
    Tls,
    /// And a login with a password whose key has been derived.
    Password,
    /// A TLS handshake, a login with a key, the start of the service, and a first call.
    Key,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Tls, Self::Password, Self::Key];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Tls => "TLS alone",
            Self::Password => "login with a password",
            Self::Key => "login with a key, first call",
        }
    }

    /// What its server is started with.
    pub const fn server(self) -> (Peer, Work) {
        match self {
            Self::Tls => (Peer::Raw, Work::Connect),
            Self::Password => (Peer::Chan, Work::Connect),
            Self::Key => (Peer::Chan, Work::Latency),
        }
    }

    /// Its stages, in order.
    pub const fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &["TCP", "TLS", "close"],
            Self::Password => &["TCP", "TLS", "login", "close"],
            Self::Key => &["TCP", "TLS", "login", "start", "first call", "close"],
        }
    }
}

/// What was measured of one way.
#[derive(Clone, Debug, Serialize)]
pub struct Staged {
    /// The median time of each stage, in seconds.
    pub stages: Vec<f64>,
    /// Processor time of a connection, of the client and of the server, in seconds.
    pub cpu: [f64; 2],
}

/// Makes connections for about `length`.
pub async fn stages(way: Way, server: &Listening, length: Duration) -> Result<Staged> {
    let client = Client::new(way.server().0, server)?;
    let login = Login::new(client.clone())?;
    if way == Way::Password {
        // Derives the key.
        login.make().await?.shutdown().await?;
    }
    let clock = Clock::start_with(length, server.program);
    let mut times: Vec<Vec<u64>> = vec![Vec::new(); way.stages().len()];
    let mut count = 0_u64;
    while count < 20 || !clock.is_over() {
        let mut at = vec![Instant::now()];
        let tcp = client.dial().await?;
        at.push(Instant::now());
        let mut stream = client.handshake(tcp).await?;
        at.push(Instant::now());
        match way {
            Way::Tls => stream.shutdown().await?,
            Way::Password => {
                login.log_in(&mut stream).await?;
                at.push(Instant::now());
                stream.shutdown().await?;
            }
            Way::Key => {
                let limits = Limits::default();
                let authenticated =
                    super::connect::log_in_with_key(&mut stream, &limits, Codec::Bincode, b"").await?;
                at.push(Instant::now());
                let caller = chan::Chan::open(stream, &authenticated).await?;
                at.push(Instant::now());
                caller.call(Bytes::from_static(b"first")).await?;
                at.push(Instant::now());
                caller.close().await?;
            }
        }
        at.push(Instant::now());
        for (times, pair) in times.iter_mut().zip(at.windows(2)) {
            times.push((pair[1] - pair[0]).as_nanos() as u64);
        }
        count += 1;
    }
    let sample = clock.sample(count);
    let median = |times: &mut Vec<u64>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default() as f64 / 1e9
    };
    let server_cpu =
        sample.server.map_or_else(|| cpu_seconds_of(server.program), |server| server.cpu_seconds);
    Ok(Staged {
        stages: times.iter_mut().map(median).collect(),
        cpu: [sample.cpu_seconds / count as f64, server_cpu / count as f64],
    })
}
