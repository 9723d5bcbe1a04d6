//! The client against servers on loopback.

mod command;
mod connect;
mod server;
