// Runs programs on the Verilated machine. Standard input, little-endian, again and again: three counts of 32 bits
// (instructions, beats, words to store), the instructions, the beats. Standard output for each: the words, gemm_cycles
// of the program and all its cycles, 32 bits each. Sizes of the ports in bytes come from the command line of the build.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "Vmachine.h"
#include "verilated.h"

static bool read_all(void* to, size_t bytes) { return fread(to, 1, bytes, stdin) == bytes; }

template <class Port> static void put(Port& port, const uint8_t* from, size_t bytes) {
  memset(&port, 0, sizeof(Port));
  memcpy(&port, from, bytes);
}

int main() {
  VerilatedContext context;
  Vmachine machine(&context);
  machine.clk = 0;
  machine.rst = 1;
  for (int edge = 0; edge < 4; edge++) {
    machine.clk = edge & 1;
    machine.eval();
  }
  machine.rst = 0;
  machine.out_ready = 1;
  uint32_t counts[3];
  while (read_all(counts, sizeof counts)) {
    std::vector<uint8_t> instructions(size_t(counts[0]) * INSTRUCTION_BYTES), beats(size_t(counts[1]) * IN_BYTES);
    std::vector<uint8_t> words(size_t(counts[2]) * OUT_BYTES);
    if (!read_all(instructions.data(), instructions.size()) || !read_all(beats.data(), beats.size())) return 1;
    uint32_t instruction = 0, beat = 0, word = 0, before = machine.gemm_cycles, cycles = 0;
    uint64_t most = 10000000;
    for (;; cycles++) {
      machine.instruction_valid = instruction < counts[0];
      if (machine.instruction_valid) put(machine.instruction, &instructions[size_t(instruction) * INSTRUCTION_BYTES], INSTRUCTION_BYTES);
      machine.in_valid = beat < counts[1];
      if (machine.in_valid) put(machine.in_data, &beats[size_t(beat) * IN_BYTES], IN_BYTES);
      machine.clk = 0;
      machine.eval();
      if (machine.out_valid) {
        if (word == counts[2]) return 2;
        memcpy(&words[size_t(word++) * OUT_BYTES], &machine.out_data, OUT_BYTES);
      }
      if (machine.idle) break;
      if (!most--) return 3;
      instruction += machine.instruction_ready;
      beat += machine.in_valid && machine.in_ready;
      machine.clk = 1;
      machine.eval();
    }
    if (word != counts[2] || beat != counts[1]) return 4;
    uint32_t ends[2] = {machine.gemm_cycles - before, cycles};
    fwrite(words.data(), 1, words.size(), stdout);
    fwrite(ends, 1, sizeof ends, stdout);
    fflush(stdout);
  }
  return 0;
}
