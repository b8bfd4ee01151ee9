/* paths - where tests find things. Tests run from the root of the repository. */
#ifndef CRN_TESTS_PATHS_H
#define CRN_TESTS_PATHS_H

#define PATHS_MODEL_FILE "SmolLM2-135M-Instruct.Q4_1.gguf"

/* Each returns a path in a buffer of its own, overwritten by the next call of the same function;
 * never NULL. paths_model: $CAIRN_MODELS, else ~/.cache/cairn; fails the test with a hint when the
 * model is not there. */
const char *paths_model(void);
const char *paths_golden(const char *file); /* tests/data/golden/FILE */
const char *paths_family(const char *file); /* share/family/FILE */
const char *paths_bin(const char *program); /* $CRN_BIN, else build/release/bin */

/* A fresh directory below $TMPDIR or /tmp, removed with all its files by paths_tmp_remove(). */
const char *paths_tmp(void);
const char *paths_tmp_file(const char *file); /* inside the directory of the last paths_tmp() */
void paths_tmp_remove(void);

#endif
