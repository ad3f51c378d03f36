// Products of warpgroups, which go on while their threads do (src/hopper.h): 128 threads come to
// one together, and it is computed when it must be done at the latest; at once where threads run in
// reverse; at random where they are shuffled. Until then sums are no numbers, so that whoever
// reads them too early is seen, and whoever changes them, the words of A, or the rows in shared
// memory fails the launch. So do rows that were copied and not shown, see show_copies.
#pragma once

// shown is shared memory as products of warpgroups see it.
unsigned char shown[most_dynamic_shared];

const unsigned not_yet = 0xffbadbad;  // of bfloat16 and of integers

struct GroupProduct {
  Operands of[128];
  unsigned a[128][4];           // what they were at the beginning
  std::vector<unsigned> words;  // the rows, 8 for each
};
struct Group {
  size_t begun = 0, done = 0;
  std::deque<GroupProduct> products;  // that are not done
  // Sums of those, of 128 threads, by where the first thread's are.
  std::map<void *, std::vector<unsigned>> sums;
};
std::vector<Group> groups;

unsigned *sums_of(const GroupProduct &p, int t) { return static_cast<unsigned *>(p.of[t].c); }

// The rows that a descriptor tells of, 32 bytes each, by PTX's swizzle of 64 bytes.
std::vector<unsigned> described(const Operands &o) {
  const unsigned from = (o.columns & 0x3fff) << 4, step = (o.columns >> 32 & 0x3fff) << 4;
  if (o.columns >> 62 != 2 || (o.columns >> 49 & 7) || from % 512 >= 64)
    break_rule("a descriptor is of no swizzle of 64 bytes, or its rows lie askew");
  std::vector<unsigned> words;
  for (int row = 0; row < 8 * o.tiles; row++)
    for (int byte = 0; byte < 32; byte += 4) {
      unsigned at = from + row / 8 * step + row % 8 * 64 + byte;
      at ^= (at >> 7 & 3) << 4;
      if (at > most_dynamic_shared - 4) {
        break_rule("a product reads behind shared memory");
        at = 0;
      }
      unsigned word;
      std::memcpy(&word, dynamic_shared + at, 4);
      if (std::memcmp(&word, shown + at, 4)) break_rule("a product reads copies that are not shown");
      words.push_back(word);
    }
  return words;
}

// A product's elements, 32 integers or 16 bfloat16 of a row of A or of B.
struct Elements {
  bool nobody;  // wrote them: of bfloat16, so that sums are no numbers
  bool odd;     // the last bit of the first
  int integers[32];
  float floats[16];
  Elements(const Operands &o, const unsigned *words) : nobody(true), odd(words[0] & 1u) {
    for (int k = 0; k < 8; k++) nobody &= words[k] == ~0u;
    for (int k = 0; k < 32; k++) integers[k] = (int8_t)(words[k / 4] >> k % 4 * 8);
    for (int k = 0; k < 16 && o.kind == Operands::GROUP_BF16; k++)
      floats[k] = __uint_as_float(words[k / 2] >> k % 2 * 16 << 16);
  }
};

// Sums of integers are exact; of bfloat16 they are those of a warp's product.
unsigned sum_of(const Operands &o, unsigned c, const Elements &a, const Elements &b, bool odd) {
  static const bool apart = told("apart");
  if (o.kind == Operands::GROUP_INT8) {
    int sum = (int)c;
    for (int k = 0; k < 32; k++) sum += a.integers[k] * b.integers[k];
    return (unsigned)sum;
  }
  if (a.nobody || b.nobody) return ~0u;
  return __float_as_uint(sum_bf16(__uint_as_float(c), a.floats, b.floats, odd, apart));
}

// Computes the oldest product.
void finish_product(Group &g) {
  const GroupProduct p = std::move(g.products.front());
  g.products.pop_front();
  g.done++;
  const Operands &o = p.of[0];
  if (described(o) != p.words) break_rule("rows changed while they were multiplied");
  std::vector<unsigned> &sums = g.sums[o.c];
  bool last = true;
  for (const GroupProduct &later : g.products) last = last && later.of[0].c != o.c;
  std::vector<Elements> rows;
  for (size_t i = 0; i < p.words.size(); i += 8) rows.emplace_back(o, &p.words[i]);
  const int n = 4 * o.tiles;
  for (int t = 0; t < 128; t++) {
    if (std::memcmp(p.of[t].a, p.a[t], sizeof p.a[t]))
      break_rule("weights changed while they were multiplied");
    for (int half = 0; half < 2; half++) {
      // Words 0 to 3 of a row of A are those of four threads, and words 4 to 7.
      unsigned words[8];
      for (int k = 0; k < 8; k++) words[k] = p.a[t / 4 * 4 + k % 4][half + k / 4 * 2];
      const Elements a(o, words);
      for (int i = 2 * half; i < n; i += i % 2 ? 3 : 1) {
        if (sums_of(p, t)[i] != not_yet) break_rule("sums changed while they were added to");
        const int row = i / 4 * 8 + t % 4 * 2 + i % 2, beside = row / 8 * 8 + (row + 1) % 8;
        unsigned &sum = sums[t * n + i];
        sum = sum_of(o, o.add ? sum : 0, a, rows[row], rows[beside].odd);
        if (last) sums_of(p, t)[i] = sum;
      }
    }
  }
  if (last) g.sums.erase(o.c);
}

void finish_products(Group &g, size_t number) {
  while (g.done < number && !g.products.empty()) finish_product(g);
}

// Begins the product that a warpgroup's threads have come to. False if they have come to none.
bool run_group(unsigned number, Order order) {
  Thread *thread = &threads[128 * number];
  const Operands first = thread[0].operands;
  bool some = false, all = true;
  for (int t = 0; t < 128; t++) {
    const Operands &o = thread[t].operands;
    some |= o.group();
    all &= o.kind == first.kind && o.tiles == first.tiles && o.add == first.add &&
           o.columns == first.columns && o.group();
    if (o.group() && !thread[t].ready) break_rule("a product begins before its registers are ready");
  }
  if (!some) return false;
  if (!all) break_rule("threads of a warpgroup come to different products");
  if (broken_rule) return false;
  Group &g = groups[number];
  GroupProduct p;
  p.words = described(first);
  std::vector<unsigned> before;
  const bool again = g.sums.count(first.c);
  for (int t = 0; t < 128; t++) {
    p.of[t] = thread[t].operands;
    std::memcpy(p.a[t], p.of[t].a, sizeof p.a[t]);
    for (int i = 0; i < 4 * first.tiles && !again; i++) {
      before.push_back(sums_of(p, t)[i]);
      sums_of(p, t)[i] = not_yet;
    }
    thread[t].begun_products++;
  }
  if (!again) g.sums[first.c] = before;
  g.products.push_back(std::move(p));
  g.begun++;
  if (order == REVERSE || (order == SHUFFLE && random_below(2))) finish_products(g, g.begun);
  for (unsigned t : ordered(128, order)) {
    thread[t].operands.kind = Operands::NONE;
    resume(128 * number + t);
  }
  return true;
}

// Whether nothing goes on when a block ends.
bool products_ended() {
  for (const Group &g : groups)
    if (!g.products.empty()) break_rule("a block ended before its products");
  return !broken_rule;
}
