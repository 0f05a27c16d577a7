//! The real programs on real sockets: each test has a CA, agents and workloads of its own, and waits for events.

mod clocks;
mod config_console;
mod config_service;
mod contract;
mod exhaustion;
mod faults;
mod foreign;
mod foreign_tokens;
mod main_job;
mod migrate;
mod minting;
mod outages;
mod photo_chain;
mod power;
mod programs;
mod readme;
mod removal;
mod renewals;
mod secrets;
mod tokens;
