//! Serves named services to untrusted networks: TLS 1.3, a password proved both ways, a process for each client.

pub mod audit;
#[cfg(feature = "cli")]
pub mod command;
pub mod config;
mod connection;
mod descriptors;
pub mod gate;
pub mod identity;
pub mod listener;
pub mod live;
mod metrics;
pub mod modules;
mod policy;
mod proxy_protocol;
mod rate;
pub mod reload;
pub mod resume;
mod scrape;
mod server;
mod shared;
mod start;
mod traffic;
mod units;
mod words;

pub use descriptors::raise_descriptor_limit;
pub use policy::Revoked;
pub use server::{Cutter, Handle, Server, ServiceUrl, Status};
pub use start::StartError;
