//! Client of lib_chan services: connects by a URL, proves the password, hands out a channel.
mod bookmark;
mod config_file;
pub mod connect;
mod dial;
mod json;
mod known_hosts;
mod secret_file;
pub mod trust;
pub mod url;

pub use bookmark::{BookmarkError, Bookmarks};
pub use config_file::FileError;
pub use known_hosts::{KnownHosts, KnownHostsError};
pub use secret_file::{SecretFileError, create_secret_file, read_secret_file};
