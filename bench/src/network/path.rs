//! A network path between two hosts of this machine: two network namespaces, and between them a link with a round trip
//! time, a rate and a loss.
//!
//! Each host is a namespace with one TUN device. Two threads carry packets from one device to the other, so both ends
//! run the kernel's own TCP: slow start, congestion control and window autotuning included. (`tc netem` does the same
//! where the kernel has it; many do not.)

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The address of the host where servers run.
pub(super) const FAR: &str = "10.66.0.2";
const NEAR: &str = "10.66.0.1";
/// A packet as it comes from a device that leaves segmentation to the receiver, with its header.
const MAX_PACKET_LEN: usize = 66 * 1024;
/// The queue in front of the bottleneck holds at least this many bytes, whatever the rate.
const MIN_QUEUE_LEN: f64 = 256.0 * 1024.0;

/// What a path is like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Shape {
    /// Added to both directions together, in milliseconds.
    pub(super) rtt_ms: f64,
    /// Of each direction, in Mbit/s.
    pub(super) mbits: f64,
    /// Of each packet in each direction, in percent.
    pub(super) loss_percent: f64,
}

impl Shape {
    pub(super) const fn bytes_per_second(&self) -> f64 {
        self.mbits * 1e6 / 8.0
    }

    pub(super) fn one_way(&self) -> Duration {
        Duration::from_secs_f64(self.rtt_ms / 2000.0)
    }

    /// How long a packet may wait at the bottleneck: one round trip's worth of bytes, as routers are advised to hold.
    pub(super) fn longest_queue(&self) -> Duration {
        let rate = self.bytes_per_second();
        Duration::from_secs_f64((self.rtt_ms / 1000.0).max(MIN_QUEUE_LEN / rate))
    }
}

/// Two hosts and the link between them; removed when dropped.
pub(super) struct Path {
    near: String,
    far: String,
    stop: Arc<AtomicBool>,
}

impl Path {
    /// Makes both hosts and starts the link. Needs root, for namespaces and devices.
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let id = std::process::id();
        let path =
            Self { near: format!("chan-near-{id}"), far: format!("chan-far-{id}"), stop: Arc::default() };
        let devices = [(&path.near, NEAR), (&path.far, FAR)].map(|(host, address)| {
            ip(&["netns", "add", host])?;
            let name = format!("chan{}{}", address.rsplit('.').next().unwrap_or_default(), id % 100_000);
            let device = DeviceBuilder::new()
                .name(&name)
                .layer(Layer::L3)
                .mtu(1500)
                // A lossy link drops single packets, so there the kernel cuts the stream itself.
                .offload(shape.loss_percent == 0.0)
                .build_sync()
                .context("a TUN device (is this root?)")?;
            ip(&["link", "set", &name, "netns", host])?;
            ip(&["-n", host, "address", "add", &format!("{address}/30"), "dev", &name])?;
            ip(&["-n", host, "link", "set", &name, "up"])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
            anyhow::Ok(Arc::new(device))
        });
        let [near, far] = devices;
        let (near, far) = (near?, far?);
        carry(Arc::clone(&near), Arc::clone(&far), shape, Arc::clone(&path.stop));
        carry(far, near, shape, Arc::clone(&path.stop));
        Ok(path)
    }

    /// A command that runs where clients are.
    pub(super) fn near(&self, program: impl AsRef<std::ffi::OsStr>) -> tokio::process::Command {
        on(&self.near, program)
    }

    /// A command that runs where servers are.
    pub(super) fn far(&self, program: impl AsRef<std::ffi::OsStr>) -> tokio::process::Command {
        on(&self.far, program)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for host in [&self.near, &self.far] {
            let _ = ip(&["netns", "del", host]);
        }
    }
}

fn on(host: &str, program: impl AsRef<std::ffi::OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("ip");
    command.args(["netns", "exec", host]).arg(program);
    command
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (Debian package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Carries packets in one direction, until both hosts are gone.
fn carry(from: Arc<SyncDevice>, to: Arc<SyncDevice>, shape: Shape, stop: Arc<AtomicBool>) {
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let (mut bottleneck, mut loss) = (Bottleneck::new(shape), Loss::new(shape.loss_percent));
        let mut buffer = vec![0; MAX_PACKET_LEN];
        while !stop.load(Ordering::Relaxed) {
            let Some(len) = received(from.recv(&mut buffer)) else { return };
            if len > 0
                && !loss.takes()
                && let Some(due) = bottleneck.pass(len)
                && send.send((due, buffer[..len].to_vec())).is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, packet) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A packet that the other host does not take is lost, as on any link.
            let _ = to.send(&packet);
        }
    });
}

/// The length of a packet, 0 where there was none after all; `None` when the device is gone.
fn received(result: io::Result<usize>) -> Option<usize> {
    match result {
        Ok(len) => Some(len),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(0),
        Err(_) => None,
    }
}

/// A link of one rate behind a queue that drops what finds it full.
struct Bottleneck {
    shape: Shape,
    free_at: Instant,
}

impl Bottleneck {
    fn new(shape: Shape) -> Self {
        Self { shape, free_at: Instant::now() }
    }

    /// When a packet of this length that comes now arrives; `None` if the queue is full.
    fn pass(&mut self, len: usize) -> Option<Instant> {
        let now = Instant::now();
        let start = self.free_at.max(now);
        if start - now > self.shape.longest_queue() {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64(len as f64 / self.shape.bytes_per_second());
        Some(self.free_at + self.shape.one_way())
    }
}

/// Takes each packet with the same chance; the same packets in each run.
struct Loss {
    below: u64,
    state: u64,
}

impl Loss {
    fn new(percent: f64) -> Self {
        Self { below: (percent / 100.0 * u64::MAX as f64) as u64, state: 1 }
    }

    fn takes(&mut self) -> bool {
        // xorshift64*, Vigna 2016.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rtt_ms: 50.0, mbits: 100.0, loss_percent: 1.0 };

    #[test]
    fn bottleneck_spaces_packets_and_drops_when_full() {
        let mut bottleneck = Bottleneck::new(SHAPE);
        let first = bottleneck.pass(1_250_000).expect("the queue is empty");
        assert!(
            first >= Instant::now() + Duration::from_millis(100),
            "100 ms for the bytes, 25 ms for the way"
        );
        assert_eq!(bottleneck.pass(1500), None, "a round trip's worth of bytes waits already");
    }

    #[test]
    fn loss_takes_its_share() {
        let mut loss = Loss::new(1.0);
        let taken = (0..100_000).filter(|_| loss.takes()).count();
        assert!((900..1100).contains(&taken), "{taken} of 100 000");
        assert!(!(0..1000).any(|_| Loss::new(0.0).takes()));
    }
}
