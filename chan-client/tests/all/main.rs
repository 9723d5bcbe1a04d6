//! The client against servers on loopback.

mod command;
mod connect;
mod forward;
mod server;
