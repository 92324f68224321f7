//! What runs a process: flags, start and end, the gRPC server, metrics and telemetry. Every role and command uses it.

pub mod alarm;
mod allocator;
pub mod command_line;
pub mod config;
pub mod failure;
pub mod metrics;
pub mod process;
pub mod role;
pub mod security;
pub mod server;
pub mod shutdown;
pub mod signals;
pub mod stderr;
pub mod telemetry;
pub mod temporary;
