//! Client of lib_chan services: connects to a URL, logs in, and returns a channel.
//!
//! Begin with [`connect`](connect()). [`url`] describes URLs, and [`trust`] the ways to trust a server. The feature `cli`,
//! on by default, adds the command-line program; programs that embed the client turn it off.
//!
//! ```no_run
//! use chan_client::connect;
//! use lib_chan::{Channel, secret::Password};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let password = Password::new("correct horse battery staple")?;
//! let url = "chan://example.net:1234/echo?system";
//! let chan: Channel<String> = connect(url).password(&password).open().await?;
//! chan.remote().cast("hello").await?;
//! chan.close().await?;
//! # Ok(())
//! # }
//! ```

mod bookmark;
#[cfg(feature = "cli")]
pub mod command;
mod config_file;
pub mod connect;
mod identity;
#[cfg(feature = "cli")]
mod json;
mod known_hosts;
pub mod trust;
pub mod url;

pub use bookmark::{BookmarkError, Bookmarks};
pub use config_file::FileError;
pub use connect::connect;
pub use known_hosts::{KnownHosts, KnownHostsError};
