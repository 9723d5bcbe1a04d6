//! Client of lib_chan services: connects by a URL, proves the password, hands out a channel.
mod bookmark;
pub mod command;
mod config_file;
pub mod connect;
mod dial;
pub mod forward;
mod json;
mod known_hosts;
mod secret_file;
pub mod trust;
pub mod url;

pub use bookmark::{BookmarkError, Bookmarks};
pub use config_file::FileError;
pub use connect::connect;
pub use known_hosts::{KnownHosts, KnownHostsError};
pub use secret_file::{SecretFileError, create_secret_file, read_secret_file};
