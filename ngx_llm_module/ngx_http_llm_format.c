/*
 * ngx_http_llm_format.c - prompt formats by name, for models of the time
 * before chat templates: "template alpaca;" in an llm_model block.
 *
 * Each is the format that the makers of the model family published, written
 * as a chat template: a system message where the family has one, any number
 * of turns, and an open turn of the assistant at the end.
 */
#include "ngx_http_llm_conf.h"


/* one turn after the other, without the system message of the start */

#define NGX_HTTP_LLM_TURNS                                                    \
    "{% set system = messages[0]['content'] if messages[0]['role'] == "       \
    "'system' else none %}"                                                   \
    "{% for m in messages if m['role'] != 'system' %}"

#define NGX_HTTP_LLM_INSTRUCTION                                              \
    "Below is an instruction that describes a task. Write a response that "   \
    "appropriately completes the request."


typedef struct {
    ngx_str_t  name;
    ngx_str_t  source;
} ngx_http_llm_format_t;


static ngx_http_llm_format_t  ngx_http_llm_formats[] = {

    /* Stanford Alpaca and the many models tuned like it */

    { ngx_string("alpaca"), ngx_string(
      "{{ bos_token }}" NGX_HTTP_LLM_TURNS
      "{% if loop.first %}{{ system if system else '"
      NGX_HTTP_LLM_INSTRUCTION "' }}{{ '\n\n' }}{% endif %}"
      "{% if m['role'] == 'user' %}"
      "{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
      "{% else %}{{ '### Response:\n' + m['content'] + '\n\n' }}{% endif %}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}") },

    /* Vicuna 1.1 and later */

    { ngx_string("vicuna"), ngx_string(
      "{{ bos_token }}" NGX_HTTP_LLM_TURNS
      "{% if loop.first %}{{ system if system else 'A chat between a curious "
      "user and an artificial intelligence assistant. The assistant gives "
      "helpful, detailed, and polite answers to the user\\'s questions.' }}"
      "{{ ' ' }}{% endif %}"
      "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
      "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}") },

    /* OpenAssistant (Pythia and Llama) */

    { ngx_string("oasst"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if loop.first and system %}"
      "{{ '<|system|>' + system + eos_token }}{% endif %}"
      "{{ ('<|prompter|>' if m['role'] == 'user' else '<|assistant|>') "
      "+ m['content'] + eos_token }}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}") },

    /* Dolly v2 */

    { ngx_string("dolly"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if loop.first %}{{ system if system else '"
      NGX_HTTP_LLM_INSTRUCTION "' }}{{ '\n\n' }}{% endif %}"
      "{% if m['role'] == 'user' %}"
      "{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
      "{% else %}"
      "{{ '### Response:\n' + m['content'] + '\n\n### End\n\n' }}{% endif %}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}") },

    /* Llama 2 chat */

    { ngx_string("llama2"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
      "{% if loop.first and system %}"
      "{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
      "{{ m['content'].strip() + ' [/INST]' }}"
      "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}"
      "{% endfor %}") },

    /* Falcon-instruct */

    { ngx_string("falcon-instruct"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"
      "{{ ('User: ' if m['role'] == 'user' else 'Assistant: ') "
      "+ m['content'] + '\n' }}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}") },

    /* StarChat alpha and beta */

    { ngx_string("starchat"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if loop.first %}"
      "{{ '<|system|>\n' + (system if system else '') + '<|end|>\n' }}"
      "{% endif %}"
      "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}") },

    /* MPT-instruct: Dolly's words, one line break between the parts */

    { ngx_string("mpt-instruct"), ngx_string(
      NGX_HTTP_LLM_TURNS
      "{% if loop.first %}{{ system if system else '"
      NGX_HTTP_LLM_INSTRUCTION "' }}{{ '\n' }}{% endif %}"
      "{% if m['role'] == 'user' %}"
      "{{ '### Instruction:\n' + m['content'] + '\n' }}"
      "{% else %}{{ '### Response:\n' + m['content'] + '\n' }}{% endif %}"
      "{% endfor %}"
      "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}") },

    /* FLAN-T5: plain text, no roles; the encoder's input needs its </s> */

    { ngx_string("flan"), ngx_string(
      "{% for m in messages %}{{ m['content'] }}"
      "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
      "{{ eos_token }}") },
};


ngx_str_t *
ngx_http_llm_format_find(ngx_str_t *name)
{
    ngx_uint_t              i, n;
    ngx_http_llm_format_t  *f;

    f = ngx_http_llm_formats;
    n = sizeof(ngx_http_llm_formats) / sizeof(ngx_http_llm_formats[0]);

    for (i = 0; i < n; i++) {

        if (f[i].name.len == name->len
            && ngx_strncmp(f[i].name.data, name->data, name->len) == 0)
        {
            return &f[i].source;
        }
    }

    return NULL;
}
