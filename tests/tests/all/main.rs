//! The three crates together, with the real programs.

mod endings;
mod main_job;
mod python;
