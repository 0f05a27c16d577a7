//! What the example programs share: [`sign_in`] is for those with pages for people, [`service`] for those that serve, [`settings_client`]
//! for those that have their settings from `config-service`, [`access_token`] for those that call as OAuth2 has it, [`next`] for those that call
//! on for a user. What the walk-throughs (quickstart, migrate and the scenes) and the tests need to
//! run the real programs: [`programs`] builds them and says where they are, [`process`] starts them and waits for what they print, [`demo`] is a trust
//! domain of them.

pub mod access_token;
pub mod demo;
pub mod generated;
pub mod next;
pub mod process;
pub mod programs;
pub mod service;
pub mod settings_client;
pub mod sign_in;
