//! runtime_state
