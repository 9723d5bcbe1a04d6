//! Client of lib_chan services: connects by a URL, proves the password, hands out a channel.
mod config_file;
mod known_hosts;
pub mod trust;
pub mod url;

pub use config_file::FileError;
pub use known_hosts::{KnownHosts, KnownHostsError};
