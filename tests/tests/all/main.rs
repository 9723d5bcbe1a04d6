//! The three crates together, with the real programs.

mod differential;
mod endings;
mod main_job;
