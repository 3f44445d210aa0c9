//! The fuzz targets: one test each.
//!
//! - `commands`: commands of nsqd's clients
//! - `lookup`: commands of nodes to nsqlookupd, and its responses
//! - `client_input`: frames, IDENTIFY and heartbeat statistics
//! - `http`: the HTTP server of both daemons
//! - `damage`: what can happen to files
//! - `journal`, `segments`, `checkpoint`: damaged files of nsqd
//! - `start`: a whole start on such files
//! - `import`: damaged files of NSQ

mod client_input;
mod commands;
mod lookup;

mod http;

mod damage;

mod checkpoint;
mod journal;
mod segments;
mod start;

mod import;
