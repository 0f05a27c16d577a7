//! The ES256 signature that every token costs, whoever makes it.

use std::{hint::black_box, thread, time::Instant};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use super::cpu_micros;

/// A key, and something as long as what is signed in a token.
pub struct Signatures {
    pair: EcdsaKeyPair,
    input: Vec<u8>,
}

impl Signatures {
    /// Over so many bytes.
    pub fn over(bytes: usize) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { pair, input: vec![7; bytes] }
    }

    fn sign(&self, count: usize) {
        let random = SystemRandom::new();
        for _ in 0..count {
            black_box(self.pair.sign(&random, &self.input).expect("a signature"));
        }
    }

    /// Processor time of one, in microseconds.
    pub fn micros(&self) -> f64 {
        cpu_micros(|| self.sign(SOME)) / SOME as f64
    }

    /// How many a second one thread makes.
    pub fn per_second(&self, count: usize) -> f64 {
        let began = Instant::now();
        self.sign(count);
        count as f64 / began.elapsed().as_secs_f64()
    }

    /// How many a second a thread on each core makes, together.
    pub fn per_second_on_all_cores(&self, count: usize) -> f64 {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let each = count.div_ceil(cores);
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| self.sign(each));
            }
        });
        (each * cores) as f64 / began.elapsed().as_secs_f64()
    }
}

const SOME: usize = 100;
