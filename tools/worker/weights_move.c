/* A model's numbers in another memory. All of them lie in one arena, so they go over in one piece and every pointer moves by the
 * same distance. The arena stays on the host, too: it is mapped memory that nobody reads any more. */
#include "tools/worker/weights.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>

static const void *moved(const struct crn_weights *w, const void *arena, const void *at)
{
    return (const char *)arena + ((const char *)at - (const char *)w->arena);
}

static void move_layer(const struct crn_weights *w, const void *arena, struct crn_layer_weights *l)
{
    struct crn_matrix *matrices[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w_gate, &l->w_up, &l->w_down};
    l->attn_norm = moved(w, arena, l->attn_norm);
    l->ffn_norm = moved(w, arena, l->ffn_norm);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        matrices[i]->data = moved(w, arena, matrices[i]->data);
}

int crn_weights_move(const struct crn_weights *w, const struct crn_exec *exec,
                     struct crn_weights **out_weights)
{
    struct crn_weights *to = malloc(sizeof *to);
    struct crn_layer_weights *layers = malloc(w->shape.n_layers * sizeof *layers);
    void *arena = NULL;
    int status = to != NULL && layers != NULL ? 0 : -ENOMEM;
    if (status == 0)
        status = crn_memory_alloc(exec, w->arena_bytes, &arena);
    if (status == 0)
        status = crn_memory_put(exec, arena, w->arena, w->arena_bytes);
    if (status != 0) {
        crn_memory_free(exec, arena);
        free(layers);
        free(to);
        return status;
    }
    *to = *w;
    to->arena = arena;
    to->layers = layers;
    to->token_embd = moved(w, arena, w->token_embd);
    to->output_norm = moved(w, arena, w->output_norm);
    to->output.data = moved(w, arena, w->output.data);
    for (uint32_t l = 0; l < w->shape.n_layers; l++) {
        layers[l] = w->layers[l];
        move_layer(w, arena, &layers[l]);
    }
    *out_weights = to;
    return 0;
}

void crn_weights_unmove(struct crn_weights *w, const struct crn_exec *exec)
{
    if (w == NULL)
        return;
    crn_memory_free(exec, w->arena);
    free(w->layers);
    free(w);
}
