//! node_state
