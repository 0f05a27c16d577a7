//! workload_api
